"""VQAv2's pairs of JSON files: questions, and annotations of them."""

import json
import logging
from pathlib import Path
from typing import Any

from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import (
    OnMissing,
    QuestionRow,
    QuestionTable,
    kind_of_json,
    most_frequent,
    normalize_text,
)
from datamodules.questions.types import QuestionTypes
from eomt.errors import UserError, listed, shortened
from eomt.utils.reading import ANYTHING, read_json

log = logging.getLogger("eomt")

Entry = dict[str, Any]


def read_pair(
    questions: Path, annotations: Path | None, find_image: ImageFinder, types: QuestionTypes, on_missing: OnMissing
) -> QuestionTable:
    """Read the official JSON of VQAv2, or of OK-VQA; rows are named by `question_id`.

    Args:
        questions: `{"questions": [{"image_id", "question", "question_id"}]}`.
        annotations: `{"annotations": [{"question_id", "image_id", "multiple_choice_answer", "answers": [{"answer"}],
            "answer_type"}]}`; without the multiple_choice_answer, as in OK-VQA, the most frequent of the answers is the
            main one. None where answers are not known.
        find_image: Returns the file of an `image_id`.
        types: The answer types.
        on_missing: Whether a missing image is an error, or its questions are left out.

    Raises:
        UserError: A file cannot be used, the two do not match, or an image is missing.
    """
    asked = _read_entries(questions, "questions", ("question", "image_id"))
    answered: dict[int, Entry] = {}
    if annotations is not None:
        needed = ("answers", "answer_type", "image_id")
        answered = _read_entries(annotations, "annotations", needed)
        _check_match(questions, asked, annotations, answered)
    rows: list[QuestionRow] = []
    missing: list[str] = []
    for number, entry in asked.items():
        image = find_image(str(entry["image_id"]))
        if image is not None:
            answers = _Answers(f"{annotations}: question_id {number}", answered[number], types) if answered else None
            rows.append(_question_row(f"{questions}: question_id {number}", entry, answers, image, number))
        elif on_missing == "skip":
            missing.append(str(entry["image_id"]))
        else:
            raise UserError(
                f"{questions}: question_id {number}: no image {entry['image_id']} in {find_image.folder}; restore it, "
                "or set on_missing: skip"
            )
    if missing:
        log.warning(
            "%s: %d questions are left out, whose images are missing (%s, ...)", questions, len(missing), missing[0]
        )
    if not rows:
        raise UserError(
            f"{questions}: holds no question whose image is in {find_image.folder}; give the folder of its images"
        )
    return QuestionTable(rows, len(missing))


def read_annotated_answers(annotations: Path) -> list[str]:
    """Return the main answer of each annotation.

    Raises:
        UserError: The file cannot be used.
    """
    entries = _read_entries(annotations, "annotations", ("answers",))
    return [_answers(f"{annotations}: question_id {number}", entry)[0] for number, entry in entries.items()]


class _Answers:
    """Contents of an annotation.

    Raises:
        UserError: An answer is missing, or the type is unknown.
    """

    def __init__(self, where: str, entry: Entry, types: QuestionTypes) -> None:
        self.main, self.all = _answers(where, entry)
        type_name = types.named(str(entry["answer_type"]))
        if type_name is None:
            raise UserError(
                f"{where}: unknown type {shortened(str(entry['answer_type']))!r}; must be one of {listed(types.names)}"
            )
        self.type = type_name


def _answers(where: str, entry: Entry) -> tuple[str, tuple[str, ...]]:
    """Return the main answer of an annotation, by default the most frequent, and all of them."""
    given = entry["answers"] if isinstance(entry["answers"], list) else []
    texts = [answer["answer"] for answer in given if isinstance(answer, dict) and "answer" in answer]
    found = tuple(_text(where, "answer", text) for text in texts)
    main = _text(where, "multiple_choice_answer", entry.get("multiple_choice_answer", most_frequent(found)))
    if not main or not found:
        raise UserError(f"{where}: the answer is missing; write it there, or take the question out")
    return main, found


def _question_row(where: str, entry: Entry, answers: _Answers | None, image: Path, number: int) -> QuestionRow:
    question = _text(where, "question", entry["question"])
    if not question:
        raise UserError(f"{where}: the question is empty; write it there, or take it out")
    if answers is None:
        return QuestionRow(question, "", (), "", image, str(number))
    return QuestionRow(question, answers.main, answers.all, answers.type, image, str(number))


def _text(where: str, field: str, value: Any) -> str:
    """Return a text; a number, as files of other sources have for an answer, is one too."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise UserError(f"{where}: {field} is {json.dumps(value):.40}; must be a text, or take the question out")
    return normalize_text(str(value))


def _read_entries(file: Path, key: str, needed: tuple[str, ...]) -> dict[int, Entry]:
    """Return the entries of a file by `question_id`."""
    content = read_json(file, ANYTHING, f"give VQAv2's {key}")
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        kind = kind_of_json(content)
        if not kind.startswith("VQAv2") and not kind.startswith("of an"):
            remedy = "write a CSV with the columns image, question and answers (a JSON list), for datamodules.VQACsv"
            raise UserError(f"{file}: is {kind} JSON, which is not read; {remedy}")
        has = listed(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file}: holds {has}; must hold a list of {key}, as VQAv2's files do")
    found: dict[int, Entry] = {}
    for place, entry in enumerate(entries):
        lacking = [name for name in ("question_id", *needed) if not isinstance(entry, dict) or name not in entry]
        if lacking:
            raise UserError(f"{file}: {key} {place}: has no {lacking[0]}; give VQAv2's {key}")
        number = entry["question_id"]
        if not isinstance(number, int | str) or isinstance(number, bool):
            raise UserError(f"{file}: {key} {place}: question_id is {json.dumps(number):.40}; must be a number")
        if entry["question_id"] in found:
            raise UserError(f"{file}: question_id {entry['question_id']} stands there twice; keep one of the two")
        found[entry["question_id"]] = entry
    return found


def _check_match(questions: Path, asked: dict[int, Entry], annotations: Path, answered: dict[int, Entry]) -> None:
    """Raise a UserError unless both files speak of the same questions and images."""
    for file, alone in (
        (annotations, [number for number in asked if number not in answered]),
        (questions, [number for number in answered if number not in asked]),
    ):
        if alone:
            raise UserError(
                f"{questions} and {annotations} do not match: {len(alone)} question_ids are not in {file.name} "
                f"({alone[0]}, ...); give the two files of one split"
            )
    other = [number for number, entry in asked.items() if entry["image_id"] != answered[number]["image_id"]]
    if other:
        raise UserError(
            f"{questions} and {annotations} do not match: {len(other)} questions are about different images "
            f"(question_id {other[0]}, ...); give the two files of one split"
        )
