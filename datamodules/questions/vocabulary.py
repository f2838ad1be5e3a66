"""The answers that a training split knows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from datamodules.questions.rows import tidy
from eomt.errors import UserError


def normalise_answer(answer: str) -> str:
    """Return an answer as vocabularies hold it: Unicode's composed form (NFC), lower case, single spaces."""
    # lower case may take a letter apart again
    return tidy(tidy(answer).lower())


def count_answers(answers: Iterable[str], min_count: int) -> dict[str, int]:
    """Return how often each normalised answer occurs, by falling count, then by text.

    Args:
        answers: Answers of the training split.
        min_count: Rarer ones are left out.

    Raises:
        UserError: None is frequent enough.
    """
    counts = Counter(map(normalise_answer, answers))
    kept = {answer: count for answer, count in counts.items() if count >= min_count}
    if not kept:
        most = max(counts.values(), default=0)
        raise UserError(f"min_answer_count: {min_count}: no training answer occurs more than {most} times: lower it")
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))


def vocabulary_hash(answers: Sequence[str]) -> str:
    """Return a SHA-256 of a vocabulary and its order, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(answers), ensure_ascii=False).encode()).hexdigest()
