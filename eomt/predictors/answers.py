"""Answers to questions about images."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional as F

from eomt.errors import UserError
from eomt.predictors.inputs import NamedImage, Source, Sources, listed_sources
from eomt.predictors.predictor import Predictor, batched
from eomt.results import AnswerResult


class Answerer(Protocol):
    """A model that answers questions; in PyTorch, or exported graphs."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of its images."""

    def answer(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 16,
    ) -> list[str]:
        """Return Q answers to questions, int64 `(Q, T)`, about images, uint8 `(I, 3, H, W)`; `image_index` `(Q,)`."""


class QuestionTokens(Protocol):
    """Token ids of questions: a tokenizer's table, or what lies beside exported graphs."""

    ids: dict[str, list[int]]

    @property
    def padding_id(self) -> int:
        """The token that fills up shorter questions."""

    def add(self, questions: Iterable[str]) -> None:
        """Make the token ids of questions."""


class AnswerPredictor(Predictor[AnswerResult]):
    """Visual question answering.

    Args:
        model: Answers.
        tokens: Makes token ids of questions.
        device: Where the model computes.
        num_beams: Beams in which a decoder searches for an answer.
        max_answer_tokens: The longest answer that a decoder writes.
    """

    batch_size = 8

    def __init__(
        self,
        model: Answerer,
        tokens: QuestionTokens,
        device: torch.device,
        num_beams: int = 1,
        max_answer_tokens: int = 16,
    ) -> None:
        self.model, self.tokens, self.device = model, tokens, device
        self.num_beams, self.max_answer_tokens = num_beams, max_answer_tokens

    def predict(self, images: Source | Sources, questions: str | Sequence[str]) -> AnswerResult | list[AnswerResult]:
        """Return the answer to a question about an image, or a list of answers if images or questions are a list.

        Args:
            images: See `eomt.predictors.inputs.read`.
            questions: One question for all images; or a list, with one question for each image of a list, or several
                about one image, which is computed once.

        Raises:
            UserError: For an image that cannot be read, no question, or another number of questions than images.
        """
        sources, several_images = listed_sources(images)
        several_questions = not isinstance(questions, str)
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not asked or not all(isinstance(question, str) and question.strip() for question in asked):
            raise UserError("questions: one is empty; ask something")
        if several_images and len(asked) not in (1, len(sources)):
            raise UserError(f"questions: {len(asked)} for {len(sources)} images; give one, or one for each image")
        if several_images and len(asked) == 1:
            asked *= len(sources)
        places = range(len(sources)) if several_images else [0] * len(asked)
        found: list[AnswerResult] = []
        for batch in batched(zip(places, asked, strict=True), self.batch_size):
            needed = sorted({place for place, _ in batch})
            read_images = [self.read(sources[place]) for place in needed]
            found += self._of_batch(read_images, [(needed.index(place), question) for place, question in batch])
        return found if several_images or several_questions else found[0]

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], asked: list[tuple[int, str]]) -> list[AnswerResult]:
        size = list(self.model.img_size)
        pixels = torch.stack([F.resize(image.pixels, size, antialias=True) for image in images]).to(self.device)
        self.tokens.add(question for _, question in asked)
        rows = [torch.tensor(self.tokens.ids[question]) for _, question in asked]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.tokens.padding_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        places = torch.tensor([place for place, _ in asked], device=self.device)
        answers = self.model.answer(
            pixels,
            ids.to(self.device),
            mask.to(self.device),
            places,
            num_beams=self.num_beams,
            max_new_tokens=self.max_answer_tokens,
        )
        return [
            AnswerResult(images[place].array, question, answer, name=images[place].name)
            for (place, question), answer in zip(asked, answers, strict=True)
        ]
