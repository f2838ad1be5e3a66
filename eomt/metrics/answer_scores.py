"""Scores of an answer against reference answers: soft accuracy, exact match, token F1."""

from collections import Counter
from collections.abc import Sequence, Set

from eomt.utils.answers import normalize_answer, text_tokens

# matches with people's answers that make an answer fully right
ENOUGH_MATCHES = 3


def answer_tokens(text: str, language: str) -> list[str]:
    """Return the words of a normalized answer, without punctuation at their ends; letters of any script are kept.

    Words are what spaces part: syllables in Vietnamese, a whole sentence in Chinese.
    """
    return text_tokens(normalize_answer(text, language))


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
        vocabulary: Normalized answers.
        answers: One reference or more.
        language: See `normalize_answer`.
    """
    counts = Counter(normalize_answer(answer, language) for answer in answers)
    matches = max((number for answer, number in counts.items() if answer in vocabulary), default=0)
    return accuracy_of_matches(matches, len(answers))


def exact_match(prediction: str, answer: str, language: str = "en") -> float:
    """Return 1 if two answers are the same after normalization, else 0."""
    return float(normalize_answer(prediction, language) == normalize_answer(answer, language))


def token_f1(prediction: str, answer: str, language: str = "en") -> float:
    """Return the F1 score of the words of an answer, in any order, each as often as it occurs; see `answer_tokens`."""
    predicted, true = answer_tokens(prediction, language), answer_tokens(answer, language)
    common = (Counter(predicted) & Counter(true)).total()
    return 2 * common / (len(predicted) + len(true)) if common else 0.0
