"""Numbers of questions, and warnings of what a text model cannot take or write."""

import logging
from collections.abc import Collection, Sequence

from datamodules.questions.rows import QuestionRow, QuestionTable

log = logging.getLogger("eomt")


def count_questions(
    rows: Sequence[QuestionRow], table: QuestionTable, types: Sequence[str], truncated: Collection[str], trains: bool
) -> dict[str, int]:
    """Return the number of "images" and "questions" of a split, of each type, and of rows that are not whole.

    Args:
        rows: The questions that are used.
        table: All that there are.
        types: Names of the types.
        truncated: Texts that the text model cannot take whole.
        trains: Whether it is the training split, of which rows may be left out.
    """
    counts = {"images": len({row.image for row in rows}), "questions": len(rows)}
    for name in types:
        counts[name] = sum(row.question_type == name for row in rows)
    if trains:
        counts |= {"dropped": len(table.rows) - len(rows), "leaked": table.leaked}
    return counts | {"truncated": sum(row.question in truncated for row in rows), "skipped": table.skipped}


def warn_of_truncation(split: str, rows: Sequence[QuestionRow], truncated: Collection[str]) -> None:
    """Log a warning for questions and answers that the text model cannot take whole."""
    for what, texts in (("questions", [row.question for row in rows]), ("answers", [row.answer for row in rows])):
        if found := [text for text in texts if text in truncated]:
            log.warning(
                "%s: %d of %d %s are longer than the text model takes and were truncated (%.40s...)",
                *(split, len(found), len(rows), what, found[0]),
            )


def warn_of_long_answers(answers: Sequence[str], num_rows: int, most: int) -> None:
    """Log a warning for training answers that a network cannot write whole.

    Args:
        answers: Those answers.
        num_rows: Training rows in all.
        most: Tokens that the network writes.
    """
    if answers:
        log.warning(
            "train: %d of %d answers have more than the %d tokens of max_answer_tokens and cannot be written whole "
            "(%.40s...)",
            *(len(answers), num_rows, most, answers[0]),
        )
