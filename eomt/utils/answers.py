"""The spelling of answers: when two strings are one answer."""

import re
import unicodedata
from functools import lru_cache

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
MARKS = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
# punctuation, to Unicode, that has a meaning at the ends of an answer: 50 %, #3, -2
KEPT_AT_ENDS = "%‰#&@-"


def _spellings() -> dict[str, str]:
    """Return contractions without an apostrophe -> the contraction, except for spellings that are other words."""
    endings = {
        "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
        "'ve": "could might must not should they we what where who would you",
        "'d": "he how it somebody someone something there they where who you",
        "'ll": "how it somebody someone something they what who why you",
        "'re": "there they what why you",
        "'s": "he how somebody someone that there what when where who why",
    }
    doubled = {
        ("n't", "'ve"): "could had might should would",
        ("'d", "'ve"): "he it she somebody someone something there they we who y'all you",
        ("'", "all"): "y",
        ("'all", "'ll"): "y",
    }
    spellings: dict[str, str] = {}
    for ending, stems in endings.items():
        spellings |= {stem + ending.replace("'", ""): stem + ending for stem in stems.split()}
    for (first, second), stems in doubled.items():
        for stem in stems.split():
            whole = stem + first + second
            spellings[stem + first.replace("'", "") + second] = whole
            spellings[stem + first + second.replace("'", "")] = whole
    spellings["yall'd've"] = "y'all'd've"
    spellings |= {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas"}
    return spellings | dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")


CONTRACTIONS = _spellings()


def plain_answer(text: str) -> str:
    """Return an answer as it is spelled in a vocabulary: Unicode's composed form (NFC), lower case, single spaces.

    Args:
        text: Answer as it was written.
    """
    # lower case may decompose a letter again
    lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    return " ".join(lower.split())


@lru_cache(maxsize=2**16)
def normalize_answer(text: str, language: str) -> str:
    """Return the normal form of an answer: two answers with the same one count as equal, in training and metrics.

    English ("en") follows the VQAv2 evaluation: punctuation marks, full stops and articles are removed, number words
    become figures, contractions get their apostrophe. That evaluation skips these rules where all references are equal;
    here they always apply.

    Any other language: lower case, single spaces, no punctuation at the ends. Words and diacritics stay: "an" is a word
    in Vietnamese.

    Both are in Unicode's form NFC. Where the rules would leave nothing ("A", "?"), only case and spaces are changed, so
    that an empty prediction equals no answer.

    Args:
        text: Answer as it was written.
        language: Code of its language, such as "en" or "vi".
    """
    plain = plain_answer(text)
    normal = _english(plain) if language == "en" else _without_ends(plain)
    return normal or plain


def _english(text: str) -> str:
    has_comma_in_number = COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in MARKS:
        # a mark between two words becomes a space; beside a space, or beside a number such as 1,000, it is dropped
        at_end_of_word = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if at_end_of_word or has_comma_in_number else " ")
    cleaned = PERIOD.sub("", cleaned)
    words = [NUMBERS.get(word, word) for word in cleaned.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_ends(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _may_go(text[start]):
        start += 1
    while end > start and _may_go(text[end - 1]):
        end -= 1
    return text[start:end]


def _may_go(character: str) -> bool:
    return character.isspace() or (unicodedata.category(character)[0] == "P" and character not in KEPT_AT_ENDS)


def text_tokens(text: str) -> list[str]:
    """Return the words of a text in NFC and lower case, without punctuation at their ends."""
    words = map(_without_ends, unicodedata.normalize("NFC", text).lower().split())
    return [word for word in words if word]
