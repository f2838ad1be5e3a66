"""Token ids of questions and answers."""

from collections.abc import Iterable
from typing import Any

from eomt.errors import UserError

# what a tokenizer of several languages is told, as mBART names them; of a question it would else say that it is English
LANGUAGE_CODES = {"en": "en_XX", "vi": "vi_VN"}


class TokenTable:
    """Token ids of texts, each made once and one at a time.

    They are made before processes that read files are started, for their forks and a tokenizer's threads do not mix.

    Args:
        source: Folder or hub id of a tokenizer, read when the first text is asked for.
        max_tokens: How many the text model takes; None where the tokenizer's own limit is enough.
        language: Of the texts, for tokenizers of several languages; None leaves theirs.

    Attributes:
        ids: Token ids of each question.
        labels: Token ids of each answer, of which the end token is the last: what stands after it, such as mBART's
            language, a decoder never writes.
        truncated: Texts that were longer than the text model takes.
    """

    def __init__(self, source: str | None, max_tokens: int | None = None, language: str | None = None) -> None:
        self.source = source
        self.max_tokens = max_tokens
        self.language = language
        self.ids: dict[str, list[int]] = {}
        self.labels: dict[str, list[int]] = {}
        self.truncated: set[str] = set()
        self._tokenizer: Any = None

    @property
    def padding_id(self) -> int:
        """The token that fills up shorter questions."""
        return int(self._loaded().pad_token_id)

    def add(self, questions: Iterable[str], answers: Iterable[str] = ()) -> None:
        """Make the token ids of texts, with the tokenizer's special tokens.

        Raises:
            UserError: There is no tokenizer, or it cannot be read.
        """
        for question in questions:
            if question not in self.ids:
                self.ids[question] = self._tokens(question)
        for answer in answers:
            if answer not in self.labels:
                tokens, end = self._tokens(answer), self._loaded().eos_token_id
                self.labels[answer] = tokens[: tokens.index(end) + 1] if end in tokens else tokens

    def _tokens(self, text: str) -> list[int]:
        tokenizer = self._loaded()
        # the tokenizer's own warning would come once, and tell no number
        tokens: list[int] = tokenizer(text, verbose=False)["input_ids"]
        most = min(tokenizer.model_max_length, self.max_tokens or tokenizer.model_max_length)
        if len(tokens) <= most:
            return tokens
        self.truncated.add(text)
        return tokenizer(text, truncation=True, max_length=most)["input_ids"]

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            if self.source is None:
                raise UserError("tokenizer: null; give the folder or the hub id of the text model's tokenizer")
            # transformers takes a second to import, which other data need not wait for
            from eomt.utils.tokenizer import load_tokenizer

            self._tokenizer = load_tokenizer(self.source)
            set_language(self._tokenizer, self.language)
        return self._tokenizer


def set_language(tokenizer: Any, language: str | None) -> None:
    """Tell a tokenizer of several languages which one questions have; others stay as they are.

    Args:
        tokenizer: One of transformers.
        language: Such as "en"; None leaves the tokenizer's own.
    """
    code = LANGUAGE_CODES.get(language or "")
    if hasattr(tokenizer, "src_lang") and code in tokenizer.all_special_tokens:
        tokenizer.src_lang = code
