"""Scores of an answer against reference answers: soft accuracy, exact match, token F1, ROUGE-L, BLEU."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from functools import lru_cache

# longest n-grams of BLEU
MOST_WORDS = 4
# matches with people's answers that make an answer fully right
ENOUGH_MATCHES = 3

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
MARKS = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
# what carries meaning at the end of an answer though Unicode calls it punctuation: 50 %, #3, -2
KEPT_AT_ENDS = "%‰#&@-"


def _spellings() -> dict[str, str]:
    """Return contractions without their apostrophe, or one of them, by what they mean; none that is another word."""
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


@lru_cache(maxsize=2**16)
def normalize_answer(text: str, language: str) -> str:
    """Return the form of an answer in which two answers are compared.

    "en": the rules of the VQAv2 evaluation. Marks and full stops go, number words become figures, articles go,
    contractions get their apostrophe. Unlike there, the rules also hold where all references are equal.

    Any other language: lower case, single spaces, no punctuation at the ends. No word and no diacritic is touched: "an"
    is a word of Vietnamese.

    Both in Unicode's form NFC. Where the rules would leave nothing, as of "A" or "?", only case and spaces are changed:
    an empty prediction is no answer.

    Args:
        text: An answer.
        language: Its code, as "en" or "vi".
    """
    plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
    normal = _english(plain) if language == "en" else _without_ends(plain)
    return normal or plain


def _english(text: str) -> str:
    has_comma_in_number = COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in MARKS:
        # a mark between two words parts them, one beside a space or in a number is only dropped
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


def answer_tokens(text: str, language: str) -> list[str]:
    """Return the words of a normalised answer, without punctuation at their ends; letters of any script are kept.

    Words are what spaces part: syllables in Vietnamese, a whole sentence in Chinese.
    """
    return text_tokens(normalize_answer(text, language))


def text_tokens(text: str) -> list[str]:
    """Return the words of a text in NFC and lower case, without punctuation at their ends."""
    words = map(_without_ends, unicodedata.normalize("NFC", text).lower().split())
    return [word for word in words if word]


def soft_accuracy(prediction: str, answers: Sequence[str], language: str = "en") -> float:
    """Return the accuracy of VQAv2: how well an answer agrees with those of several people.

    Each reference is left out once; of the others, min(matches / 3, 1) is taken; the mean of these is the accuracy. Of
    ten references, 1, 2, 3 and 4 matches give .3, .6, .9 and 1. Of n < 4 references, 3 is replaced by n - 1, the most
    matches that leaving one out allows, so that full agreement is always 1; of a single one nothing is left out: the
    accuracy is exact match.

    Args:
        prediction: An answer.
        answers: One reference or more, equal ones as often as they were given.
        language: See `normalize_answer`.
    """
    assert answers, "no reference"
    predicted = normalize_answer(prediction, language)
    return accuracy_of_matches(sum(predicted == normalize_answer(answer, language) for answer in answers), len(answers))


def accuracy_of_matches(matches: int, number: int) -> float:
    """Return the soft accuracy of an answer that `matches` of `number` references agree with."""
    if number == 1:
        return float(matches)
    needed = min(ENOUGH_MATCHES, number - 1)
    # the sum over the subsets, in whole numbers: exact
    total = matches * min(matches - 1, needed) + (number - matches) * min(matches, needed)
    return total / (needed * number)


def best_accuracy(vocabulary: Set[str], answers: Sequence[str], language: str) -> float:
    """Return the best soft accuracy that an answer of a vocabulary reaches.

    Args:
        vocabulary: Normalised answers.
        answers: One reference or more.
        language: See `normalize_answer`.
    """
    counts = Counter(normalize_answer(answer, language) for answer in answers)
    matches = max((number for answer, number in counts.items() if answer in vocabulary), default=0)
    return accuracy_of_matches(matches, len(answers))


def exact_match(prediction: str, answer: str, language: str = "en") -> float:
    """Return 1 if two answers are the same after normalisation, else 0."""
    return float(normalize_answer(prediction, language) == normalize_answer(answer, language))


def token_f1(prediction: str, answer: str, language: str = "en") -> float:
    """Return the F1 score of the words of an answer, in any order, each as often as it occurs; see `answer_tokens`."""
    predicted, true = answer_tokens(prediction, language), answer_tokens(answer, language)
    return _f1((Counter(predicted) & Counter(true)).total(), len(predicted), len(true))


def rouge_l(prediction: str, answer: str, language: str = "en") -> float:
    """Return ROUGE-L (Lin 2004): the F1 score of the longest common subsequence of words; see `answer_tokens`."""
    predicted, true = answer_tokens(prediction, language), answer_tokens(answer, language)
    return _f1(_longest_common(predicted, true), len(predicted), len(true))


def bleu(prediction: str, answer: str, language: str = "en") -> float:
    """Return BLEU (Papineni et al. 2002) of one answer, from n-grams of 1 to 4 words; see `answer_tokens`.

    Orders that the answer is too short for are left out, so that of a single word it is BLEU-1. Above single words one
    match is added to the matches and one to the n-grams (Lin & Och 2004), or a pair in another order would give 0.
    torchmetrics' smoothing stops at the first order without a match.
    """
    predicted, true = answer_tokens(prediction, language), answer_tokens(answer, language)
    common = (Counter(predicted) & Counter(true)).total()
    if not common:
        return 0.0
    precisions = [common / len(predicted)]
    for order in range(2, min(MOST_WORDS, len(true)) + 1):
        found = Counter(_ngrams(predicted, order))
        matches = (found & Counter(_ngrams(true, order))).total()
        precisions.append((matches + 1) / (found.total() + 1))
    brevity = min(1.0, math.exp(1 - len(true) / len(predicted)))
    return brevity * math.prod(precisions) ** (1 / len(precisions))


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]


def _f1(common: int, predicted: int, true: int) -> float:
    return 2 * common / (predicted + true) if common else 0.0


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        above = 0
        for place, other in enumerate(second, start=1):
            longest = above + 1 if word == other else max(lengths[place], lengths[place - 1])
            above, lengths[place] = lengths[place], longest
    return lengths[-1]
