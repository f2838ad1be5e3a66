"""Token ids of questions and answers."""

from collections.abc import Iterable
from typing import Any

from eomt.errors import UserError


class TokenTable:
    """Token ids of texts, each made once and one at a time.

    They are made before processes that read files are started, for their forks and a tokenizer's threads do not mix.

    Args:
        source: Folder or hub id of a tokenizer, read when the first text is asked for.

    Attributes:
        ids: Token ids of each text.
        truncated: Texts that were longer than the text model takes.
    """

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.ids: dict[str, list[int]] = {}
        self.truncated: set[str] = set()
        self._tokenizer: Any = None

    @property
    def padding_id(self) -> int:
        """The token that fills up shorter questions."""
        return int(self._loaded().pad_token_id)

    def add(self, texts: Iterable[str]) -> None:
        """Make the token ids of texts, with the tokenizer's special tokens.

        Raises:
            UserError: There is no tokenizer, or it cannot be read.
        """
        tokenizer = self._loaded()
        for text in texts:
            if text not in self.ids:
                # the tokenizer's own warning would come once, and tell no number
                ids = tokenizer(text, verbose=False)["input_ids"]
                if len(ids) > tokenizer.model_max_length:
                    self.truncated.add(text)
                    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length)["input_ids"]
                self.ids[text] = ids

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            if self.source is None:
                raise UserError("tokenizer: null: give the folder or the hub id of the text model's tokenizer")
            # transformers takes a second to import, which other data need not wait for
            from eomt.models.tokenizer import load_tokenizer

            self._tokenizer = load_tokenizer(self.source)
        return self._tokenizer
