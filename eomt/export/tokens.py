"""Questions as tokens and tokens as answers, by the tokenizer that lies beside exported graphs."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from eomt.errors import UserError, first_line
from eomt.export.record import RECORD_FILE, REMEDY, TOKENIZER, AnsweringSettings, Record, read_graph
from eomt.utils.reading import read_text

FILE = "tokenizer.json"
# of which the spaces are taken out where a tokenizer cleans up
SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class GraphTokens:
    """Token ids of questions, as `eomt.predictors.answers.QuestionTokens`, and the text of answers.

    Args:
        settings: What the folder says of its tokens.

    Attributes:
        ids: Token ids of each question.
    """

    def __init__(self, settings: AnsweringSettings) -> None:
        self.settings = settings
        self.ids: dict[str, list[int]] = {}

    @property
    def padding_id(self) -> int:
        """The token that fills up shorter questions."""
        return self.settings.padding

    def add(self, questions: Iterable[str]) -> None:
        """Make the token ids of questions; those that are too long are cut off."""
        for question in questions:
            if question not in self.ids:
                self.ids[question] = self._encode(question)

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of answers, without special tokens."""
        return [self._decode(row) for row in rows]

    def _encode(self, question: str) -> list[int]:
        raise NotImplementedError

    def _decode(self, row: Sequence[int]) -> str:
        raise NotImplementedError


class FastTokens(GraphTokens):
    """Tokens by the library `tokenizers` alone.

    Args:
        settings: See GraphTokens.
        content: A `tokenizer.json`.
        place: What it is, for messages.

    Raises:
        UserError: If it is no tokenizer.
    """

    def __init__(self, settings: AnsweringSettings, content: str, place: str) -> None:
        super().__init__(settings)
        # the library raises bare exceptions
        try:
            self.tokenizer = Tokenizer.from_str(content)
            self.tokenizer.no_padding()
            self.tokenizer.enable_truncation(settings.max_question_tokens)
        except Exception as error:
            raise UserError(f"{place}: is no tokenizer ({first_line(error)}); {REMEDY}") from error

    def _encode(self, question: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(question).ids
        return ids

    def _decode(self, row: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(row), skip_special_tokens=True)
        for mark in SPACED if self.settings.cleans_up else ():
            text = text.replace(mark, mark.strip())
        return text


class TransformersTokens(GraphTokens):
    """Tokens by transformers, for tokenizers that have no `tokenizer.json`, such as those of SentencePiece.

    Args:
        settings: See GraphTokens.
        tokenizer: One of transformers.
    """

    def __init__(self, settings: AnsweringSettings, tokenizer: Any) -> None:
        super().__init__(settings)
        self.tokenizer = tokenizer

    def _encode(self, question: str) -> list[int]:
        most = self.settings.max_question_tokens
        ids: list[int] = self.tokenizer(question, truncation=True, max_length=most)["input_ids"]
        return ids

    def _decode(self, row: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(row), skip_special_tokens=True)
        return text


def tokens_of(settings: AnsweringSettings, tokenizer: Any) -> GraphTokens:
    """Return the tokens of a tokenizer of transformers, as `read_tokens` will of the folder that it is written to."""
    if tokenizer.is_fast:
        return FastTokens(settings, tokenizer.backend_tokenizer.to_str(), "the tokenizer")
    return TransformersTokens(settings, tokenizer)


def read_tokens(settings: AnsweringSettings, record: Record, folder: Path) -> GraphTokens:
    """Return the tokens of an exported folder.

    Args:
        settings: Of the answers.
        record: Of the folder; its tokenizer's files must be those that were written.
        folder: The folder.

    Raises:
        UserError: If the tokenizer is missing, damaged or another one, or needs transformers, which is not installed.
    """
    file = folder / TOKENIZER / FILE
    if not (folder / TOKENIZER).is_dir():
        raise UserError(f"{folder / TOKENIZER}: is missing; {REMEDY}")
    for written in record.tokenizer:
        read_graph(folder / TOKENIZER, written)
    further = {path.name for path in (folder / TOKENIZER).iterdir()} - {written.file for written in record.tokenizer}
    # folders of earlier versions record none
    if record.tokenizer and further:
        raise UserError(f"{folder / TOKENIZER}: {min(further)} is none of the files that {RECORD_FILE} names; {REMEDY}")
    if file.exists():
        return FastTokens(settings, read_text(file, REMEDY), str(file))
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{file}: is missing, and another tokenizer needs transformers; pip install transformers")
    # a second, which graphs with a tokenizer.json need not wait for
    from eomt.utils.tokenizer import load_tokenizer

    return TransformersTokens(settings, load_tokenizer(str(folder / TOKENIZER)))
