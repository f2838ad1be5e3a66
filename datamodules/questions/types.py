"""Types of questions: by number, by name, or guessed by rules of a language."""

import re
from collections.abc import Sequence
from typing import Literal

from eomt.errors import UserError

Language = Literal["en", "vi"]

# ViVQA numbers them in this order
DEFAULT_TYPES = ("object", "count", "colour", "location")
# keys that stand beside the types in the counts of a split
RESERVED_NAMES = ("images", "questions", "dropped", "leaked", "too_long", "truncated", "skipped")

# the first that matches counts: a question for a number may name a color, and one for a color a place
RULES: dict[Language, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "en": (
        ("count", re.compile(r"\bhow (?:many|much)\b|\b(?:number|amount|count) of\b")),
        ("colour", re.compile(r"\bcolou?r(?:s|ed)?\b")),
        ("location", re.compile(r"\bwhere\b|\b(?:which|what) (?:place|side|room|location)\b|\blocation of\b")),
    ),
    "vi": (
        # "mấy giờ" asks for the time
        ("count", re.compile(r"\bbao nhiêu\b|\bmấy\b(?! giờ)|\bsố lượng\b")),
        # a color within the question only says which thing is meant
        ("colour", re.compile(r"\bmàu (?:gì|nào|sắc)\b|^màu\b")),
        ("location", re.compile(r"\bđâu\b|\b(?:nơi|chỗ) nào\b|^nơi\b|\bvị trí\b")),
    ),
}


def guess_type(question: str, language: Language) -> str:
    """Return "count", "colour", "location" or, where no rule matches, "object".

    On the test rows of ViVQA, the rules for Vietnamese find the type that the file gives 99 times in 100.

    Args:
        question: In Unicode's composed form (NFC).
        language: Whose rules.
    """
    lowered = question.lower()
    return next((name for name, pattern in RULES[language] if pattern.search(lowered)), "object")


def type_key(name: str) -> str:
    """Return what spellings of a type have in common: `Color` is `colour`."""
    return name.strip().casefold().replace("color", "colour")


class QuestionTypes:
    """The types of a data set.

    Args:
        names: Their names; a number in a file is a place in this list.
        language: Language of the questions, for rows without a type; None where every row has one.

    Raises:
        UserError: Names are empty, alike, or stand for something else.
    """

    def __init__(self, names: Sequence[str], language: Language | None) -> None:
        self.names = list(names)
        self.language = language
        self._of_key = {type_key(name): name for name in names}
        if not names or len(self._of_key) < len(names) or "" in self._of_key:
            raise UserError(f"question_types: {self.names}; give names that differ and are not empty")
        if taken := [name for name in names if name in RESERVED_NAMES]:
            raise UserError(f"question_types: {taken[0]!r} has a meaning of its own in counts; give it another name")

    @property
    def can_guess(self) -> bool:
        """True where the rules' types are all among the names."""
        return self.language is not None and all(type_key(name) in self._of_key for name in DEFAULT_TYPES)

    def named(self, text: str) -> str | None:
        """Return the type of a number or a name in any spelling; None if there is no such type."""
        name = self._of_key.get(type_key(text))
        # a column with gaps comes out of a spreadsheet as 2.0
        if name is None and re.fullmatch(r"[0-9]+(\.0)?", text) and int(float(text)) < len(self.names):
            return self.names[int(float(text))]
        return name

    def guessed(self, question: str) -> str:
        """Return the type that the rules of the language see in a question; "" where they cannot tell."""
        if not self.can_guess or self.language is None:
            return ""
        return self._of_key[guess_type(question, self.language)]
