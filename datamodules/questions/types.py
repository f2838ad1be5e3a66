"""Types of questions: by number, by name, or guessed by rules of a language."""

import re
from collections.abc import Collection, Sequence
from typing import Literal

from eomt.errors import UserError, listed

# of "other", a question without a type is one for an object, and answers are equal but for case, spaces and punctuation
# at the ends
Language = Literal["en", "vi", "other"]

# ViVQA numbers the first four in this order
DEFAULT_TYPES = ("object", "count", "colour", "location", "yes/no")
YES_NO = "yes/no"
# keys that stand beside the types in the counts of a split
RESERVED_NAMES = ("images", "questions", "dropped", "leaked", "too_long", "truncated", "skipped")

# the first that matches counts: a question for yes or no may name anything, one for a number a color, and one for a
# color a place; one that gives a choice ("red or blue?") is not answered by yes
RULES: dict[str, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "en": (
        (
            YES_NO,
            re.compile(
                r"^(?!.*\bor\b)(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might|must)"
                r"(?:n't)?\b"
            ),
        ),
        ("count", re.compile(r"\bhow (?:many|much)\b|\b(?:number|amount|count) of\b")),
        ("colour", re.compile(r"\bcolou?r(?:s|ed)?\b")),
        ("location", re.compile(r"\bwhere\b|\b(?:which|what) (?:place|side|room|location)\b|\blocation of\b")),
    ),
    "vi": (
        (YES_NO, re.compile(r"\b(?:không|chưa)\W*$|^(?:có phải|phải chăng)\b")),
        # "mấy giờ" asks for the time
        ("count", re.compile(r"\bbao nhiêu\b|\bmấy\b(?! giờ)|\bsố lượng\b")),
        # a color within the question only says which thing is meant
        ("colour", re.compile(r"\bmàu (?:gì|nào|sắc)\b|^màu\b")),
        ("location", re.compile(r"\bđâu\b|\b(?:nơi|chỗ) nào\b|^nơi\b|\bvị trí\b")),
    ),
    "other": (),
}
# words that most questions of a language have, and no other language spells so: "was" is German too, "is" Dutch, "are"
# Romanian, "has" Spanish
WORDS = {
    "en": re.compile(
        r"\b(?:what|which|who|whose|where|when|why|how|were|does|did|the|this|that|there|these|those|it|he|she|they|his|"
        r"their|you|many|with|people|doing|wearing|picture|above|below|behind|between|(?:is|has|in|on|of|see) an?|"
        r"colou?r of|number of|left of|right of)\b"
    ),
    "vi": re.compile(r"\b(?:gì|nào|là|đâu|mấy|bao nhiêu|màu|không|chưa|có|của|những|các|cái|người|chiếc|đang|trong)\b"),
}
# of the questions must have such a word
LEAST_SHARE = 0.3
# fewer questions than these may lack such words by chance
FEWEST = 4


def check_language(questions: Collection[str], language: str, where: str) -> None:
    """Raise a UserError where questions are evidently not in the language that was given.

    Rules of another language would find no type, or a wrong one, and count equal answers as wrong.

    Args:
        questions: In Unicode's composed form (NFC).
        language: A `Language`.
        where: Where they stand, for the message.
    """
    if language not in WORDS:
        return
    counts = {name: sum(bool(words.search(text.lower())) for text in questions) for name, words in WORDS.items()}
    if counts[language] >= LEAST_SHARE * len(questions):
        return
    likely = max(counts, key=lambda name: counts[name])
    if counts[likely] < LEAST_SHARE * len(questions):
        if len(questions) < FEWEST:
            return
        likely = "other"
    raise UserError(
        f"language: {language}, but {counts[language]} of {len(questions)} questions of {where} have a word of that "
        f"language ({next(iter(questions)):.40}, ...); set language: {likely}"
    )


def guess_type(question: str, language: str, types: Collection[str] = DEFAULT_TYPES) -> str:
    """Return the type whose rule matches, or, where none does, "object".

    On the test rows of ViVQA, the rules for Vietnamese find the type that the file gives 99 times in 100.

    Args:
        question: In Unicode's composed form (NFC).
        language: Whose rules.
        types: The types that there are.
    """
    lowered = question.lower()
    return next((name for name, rule in RULES[language] if name in types and rule.search(lowered)), "object")


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
            raise UserError(f"question_types: {listed(self.names)}; give names that differ and are not empty")
        if taken := [name for name in names if name in RESERVED_NAMES]:
            raise UserError(f"question_types: {taken[0]!r} has a meaning of its own in counts; give it another name")

    @property
    def can_guess(self) -> bool:
        """True where the rules' types are all among the names; "yes/no" came later and may lack."""
        return self.language in RULES and all(name in self._of_key for name in DEFAULT_TYPES if name != YES_NO)

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
        return self._of_key[guess_type(question, self.language, self._of_key)]
