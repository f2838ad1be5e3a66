"""Questions about images, and how they are read from CSV files."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from datamodules.common.tables import read_table
from datamodules.questions.types import DEFAULT_TYPES, QuestionTypes
from eomt.errors import UserError, listed, shortened
from eomt.utils.reading import ANYTHING, parse_json, read_json

log = logging.getLogger("eomt")

OnMissing = Literal["error", "skip"]

IMAGE_COLUMNS = ("image", "filename", "img_id", "image_id", "image_path", "file_name", "img")
TYPE_COLUMNS = ("type", "question_type")
REFERENCES = TypeAdapter(Annotated[list[str], Field(min_length=1)])


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question about an image; all texts are in Unicode's composed form (NFC).

    Attributes:
        question: The question.
        answer: The main answer; "" where it is not known.
        answers: All references, `answer` alone where there is one; none where it is not known.
        question_type: What is asked for; "" where it is not known.
        image: The file.
        name: Unique among the rows of a file.
    """

    question: str
    answer: str
    answers: tuple[str, ...]
    question_type: str
    image: Path
    name: str


@dataclass(frozen=True)
class QuestionTable:
    """Rows, and how many were left out: `skipped` for want of their image, `leaked` because it is measured on."""

    rows: list[QuestionRow]
    skipped: int = 0
    leaked: int = 0


def normalize_text(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), with single spaces and none around it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def most_frequent(answers: Sequence[str]) -> str:
    """Return the answer that most people gave, of several the first; "" where there is none."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def number_images(rows: Sequence[QuestionRow]) -> list[int]:
    """Return the number of each row's image, from 0, in the order in which they first occur."""
    numbers: dict[Path, int] = {}
    return [numbers.setdefault(row.image, len(numbers)) for row in rows]


def order_by_image(rows: Sequence[QuestionRow]) -> list[QuestionRow]:
    """Return rows with those of an image behind one another."""
    numbers = number_images(rows)
    return [rows[position] for position in sorted(range(len(rows)), key=numbers.__getitem__)]


def read_questions(
    file: Path,
    find_image: Callable[[str], Path | None],
    types: QuestionTypes | None,
    answered: bool = True,
    on_missing: OnMissing = "error",
) -> QuestionTable:
    """Read a CSV with a column of images (see `IMAGE_COLUMNS`), `question` and `answer`.

    `answers`, a JSON list of all references, of which the most frequent stands in for a missing `answer`, and `type`
    (or question_type), a number or a name, may be there; where it is blank, rules of the language find it. Other
    columns are passed over. Rows are named by file and row; the header is row 1.

    Args:
        file: The CSV.
        find_image: Returns the file that an image's name stands for.
        types: The types that there are; None to pass over types.
        answered: Whether the column `answer`, or `answers`, must be there.
        on_missing: Whether a missing image is an error, or its rows are left out.

    Raises:
        UserError: The file cannot be read, a column is missing, or a row is wrong.
    """
    if file.suffix.lower() == ".json" and file.is_file():
        refuse_json(file)
    header, lines = read_table(file)
    header = [normalize_text(column).lower() for column in header]
    columns = _Columns(file, header, answered)
    if types is not None and columns.type is None and answered and not types.can_guess:
        raise UserError(
            f"{file}: columns {_columns(header)}; must have type, for rules know {', '.join(DEFAULT_TYPES)} "
            f"alone, and question_types are {listed(types.names)}"
        )
    rows: list[QuestionRow] = []
    missing: list[str] = []
    for number, cells in lines:
        if len(cells) > len(header):
            raise UserError(
                f"{file}: row {number}: {len(cells)} cells under {len(header)} columns; "
                "put texts with commas between quotation marks"
            )
        row = _Row(file, number, dict(zip(header, cells, strict=False)))
        stated = row.cells.get(columns.image, "")
        image = find_image(stated)
        if image is None and on_missing == "error":
            raise row.error(f"no image {shortened(stated)!r}; restore it, check image_folder, or set on_missing: skip")
        if image is None:
            missing.append(f"row {number}: {shortened(stated)}")
            continue
        rows.append(_question_row(row, columns, image, types, answered))
    if missing:
        log.warning("%s: %d rows are left out, whose images are missing (%s, ...)", file, len(missing), missing[0])
    if not rows:
        reason = (
            "no row whose image is there; check image_folder"
            if missing
            else "no row below the header; write questions there"
        )
        raise UserError(f"{file}: {reason}")
    return QuestionTable(rows, len(missing))


def _columns(header: Sequence[str]) -> str:
    return listed(name or "(unnamed)" for name in header)


class _Columns:
    """Columns of a file that are looked at."""

    def __init__(self, file: Path, header: list[str], answered: bool) -> None:
        image = next((column for column in IMAGE_COLUMNS if column in header), None)
        lacking = [] if image else [f"an image column ({', '.join(IMAGE_COLUMNS)})"]
        lacking += [] if "question" in header else ["question"]
        lacking += ["answer (or answers)"] if answered and not {"answer", "answers"} & set(header) else []
        if image is None or lacking:
            raise UserError(f"{file}: columns {_columns(header)}; must have {' and '.join(lacking)} too")
        type_column = next((column for column in TYPE_COLUMNS if column in header), None)
        looked_at = (image, "question", "answer", "answers", type_column)
        if twice := [name for name in looked_at if header.count(name or "") > 1 and name]:
            raise UserError(f"{file}: columns {_columns(header)}: {twice[0]} stands there twice; take one out")
        self.image = image
        self.type = type_column


@dataclass(frozen=True)
class _Row:
    """The cells of a row by column."""

    file: Path
    number: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        return normalize_text(self.cells.get(column, ""))

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.file}: row {self.number}: {problem}")


def _question_row(
    row: _Row, columns: _Columns, image: Path, types: QuestionTypes | None, answered: bool
) -> QuestionRow:
    question, references = row.text("question"), _references(row)
    answer = row.text("answer") or most_frequent(references)
    if not question:
        raise row.error("the question is empty; write it there, or take the row out")
    if answered and not answer:
        raise row.error("the answer is missing; write it there, or take the row out")
    name = f"{row.file.name}:{row.number}"
    references = references or ((answer,) if answer else ())
    return QuestionRow(question, answer, references, _type_of(row, columns, types, question, answered), image, name)


def _references(row: _Row) -> tuple[str, ...]:
    text = row.text("answers")
    if not text:
        return ()
    answers = parse_json(
        text, REFERENCES, f"{row.file}: row {row.number}: answers", 'write a list of texts, as in ["red", "dark red"]'
    )
    if not all(map(normalize_text, answers)):
        raise row.error(f"answers {shortened(text)}: one is empty; take it out")
    # texts that were escaped were not composed with the rest
    return tuple(normalize_text(answer) for answer in answers)


def _type_of(row: _Row, columns: _Columns, types: QuestionTypes | None, question: str, answered: bool) -> str:
    if types is None:
        return ""
    text = row.text(columns.type) if columns.type is not None else ""
    if not text and (columns.type is None or not answered or types.can_guess):
        return types.guessed(question)
    name = types.named(text)
    if name is None:
        numbered = listed(f"{number} {name}" for number, name in enumerate(types.names))
        raise row.error(f"unknown type {shortened(text)!r}; must be one of {numbered} (or set question_types)")
    return name


def refuse_json(file: Path) -> None:
    """Raise a UserError that says which data set's JSON a file is, and what would do.

    Raises:
        UserError: Always.
    """
    kind = kind_of_json(read_json(file, ANYTHING, "nor is it a CSV, give a CSV"))
    if kind.startswith("VQAv2"):
        raise UserError(f"{file}: is JSON, {kind}; --data datamodules.VQAv2 reads it")
    raise UserError(
        f"{file}: is JSON, {kind}, which is not read; write a CSV with the columns image, question and answers (a JSON "
        "list), and perhaps type"
    )


def kind_of_json(content: Any) -> str:
    """Return in words which of the known data sets of questions the contents of a JSON file belong to."""
    entries: Any = content
    if isinstance(content, dict):
        for key in ("questions", "annotations"):
            if isinstance(content.get(key), list):
                return f"VQAv2's {key}"
        entries = content.get("data") if isinstance(content.get("data"), list) else list(content.values())
    first = entries[0] if isinstance(entries, list) and entries else None
    fields = set(first) if isinstance(first, dict) else set()
    if "imageId" in fields:
        return "GQA's"
    if {"image_id", "question"} <= fields and isinstance(content, dict) and "data" in content:
        return "TextVQA's"
    if {"image", "question"} <= fields:
        return "VizWiz's"
    return "of an unknown kind"
