"""The answers that a training split knows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from eomt.errors import UserError
from eomt.utils.answers import normalize_answer, plain_answer


def count_answers(answers: Iterable[str], min_count: int, language: str) -> dict[str, int]:
    """Return how often each answer occurs, by falling count, then by text.

    Answers that `normalize_answer` makes equal, such as "two" and "2", are one, under the most frequent spelling.

    Args:
        answers: Answers of the training split.
        min_count: Rarer ones are left out.
        language: Whose rules decide which answers are equal.

    Raises:
        UserError: None is frequent enough.
    """
    spellings: dict[str, Counter[str]] = {}
    for answer in answers:
        spellings.setdefault(normalize_answer(answer, language), Counter())[plain_answer(answer)] += 1
    counts = {min(found, key=lambda text: (-found[text], text)): found.total() for found in spellings.values()}
    kept = {answer: count for answer, count in counts.items() if count >= min_count}
    if not kept:
        most = max(counts.values(), default=0)
        raise UserError(f"min_answer_count: {min_count}; no training answer occurs more than {most} times, lower it")
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))


def index_answers(answers: Sequence[str], language: str) -> dict[str, int]:
    """Return the place of each answer of a vocabulary by its normalized form.

    Where a vocabulary has several spellings of an answer, as older ones may, it is the place of the first.

    Args:
        answers: The vocabulary.
        language: Whose rules decide which answers are equal.
    """
    index: dict[str, int] = {}
    for place, answer in enumerate(answers):
        index.setdefault(normalize_answer(answer, language), place)
    return index


def vocabulary_hash(answers: Sequence[str]) -> str:
    """Return a SHA-256 of a vocabulary and its order, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(answers), ensure_ascii=False).encode()).hexdigest()
