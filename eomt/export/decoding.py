"""Answers that a decoder writes, token by token: the most likely one each time, or by beam search.

The decoder is a function, so that nothing here knows what runs it. Both searches give what transformers' `generate`
gives with a length penalty of 1 and without early stopping, which is what `DeterministicVQA.generate` asks for.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# takes the questions of R rows and the tokens before, int64 (R, L); returns logits of the next token, (R, V)
Decoder = Callable[[Sequence[int], Tensor], Tensor]


def decode(
    decoder: Decoder, questions: int, start: int, ends: Sequence[int], num_beams: int, max_new_tokens: int
) -> list[list[int]]:
    """Return the tokens of the answer to each question, without the start token, with the end token if there is one.

    Args:
        decoder: Gives the logits of the next tokens.
        questions: Their number.
        start: The token before an answer.
        ends: Tokens after which an answer is whole.
        num_beams: Answers that are kept at once; 1 takes the most likely token each time.
        max_new_tokens: The most tokens of an answer.
    """
    if num_beams == 1:
        return _greedy(decoder, questions, start, ends, max_new_tokens)
    searches = [BeamSearch(ends, num_beams, max_new_tokens) for _ in range(questions)]
    while running := [index for index, search in enumerate(searches) if not search.is_over]:
        rows = [index for index in running for _ in searches[index].tokens]
        before = [[start, *tokens] for index in running for tokens in searches[index].tokens]
        log_probabilities = decoder(rows, torch.tensor(before)).float().log_softmax(-1)
        counts = [len(searches[index].tokens) for index in running]
        for index, of_question in zip(running, log_probabilities.split(counts), strict=True):
            searches[index].step(of_question)
    return [search.best for search in searches]


def _greedy(decoder: Decoder, questions: int, start: int, ends: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(questions)]
    running = list(range(questions))
    for _ in range(max_new_tokens):
        if not running:
            break
        logits = decoder(running, torch.tensor([[start, *answers[index]] for index in running]))
        for index, token in zip(running, logits.argmax(-1).tolist(), strict=True):
            answers[index].append(token)
        running = [index for index in running if answers[index][-1] not in ends]
    return answers


class BeamSearch:
    """The search for the answer to one question.

    The score of a whole answer is the mean log-probability of its tokens. The search is over when no running answer has
    a higher mean than the worst of `num_beams` whole ones.

    Args:
        ends: See `decode`.
        num_beams: See `decode`.
        max_new_tokens: See `decode`.

    Attributes:
        tokens: The answers that run, the most likely one first.
        is_over: Whether the search is over.
    """

    def __init__(self, ends: Sequence[int], num_beams: int, max_new_tokens: int) -> None:
        self.ends, self.num_beams, self.max_new_tokens = ends, num_beams, max_new_tokens
        self.tokens: list[list[int]] = [[]]
        self.is_over = False
        self._scores = torch.zeros(1)
        # mean and tokens, the best first
        self._whole: list[tuple[float, list[int]]] = []

    @property
    def best(self) -> list[int]:
        """Tokens of the best whole answer."""
        return self._whole[0][1]

    def step(self, log_probabilities: Tensor) -> None:
        """Make each running answer one token longer.

        Args:
            log_probabilities: Of the next token, for each running answer, `(R, V)`.
        """
        vocabulary, length = log_probabilities.shape[1], len(self.tokens[0]) + 1
        sums = (self._scores[:, None] + log_probabilities).flatten()
        # as many as run on if every running answer meets each of its ends
        count = min(max(2, 1 + len(self.ends)) * self.num_beams, len(sums))
        values, places = sums.topk(count)
        running = []
        for rank, place in enumerate(places.tolist()):
            tokens = [*self.tokens[place // vocabulary], place % vocabulary]
            if tokens[-1] not in self.ends and length < self.max_new_tokens:
                running.append((rank, tokens))
            elif rank < self.num_beams:
                self._whole.append((float(values[rank] / length), tokens))
        # sorting keeps the order of equals: what was whole before goes first
        self._whole = sorted(self._whole, key=lambda answer: -answer[0])[: self.num_beams]
        running = running[: self.num_beams]
        if not running:
            self.is_over = True
            return
        self._scores = values[[rank for rank, _ in running]]
        self.tokens = [tokens for _, tokens in running]
        is_full = len(self._whole) == self.num_beams
        self.is_over = is_full and float(self._scores[0] / length) <= self._whole[-1][0]
