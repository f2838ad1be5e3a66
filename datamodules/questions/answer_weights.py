"""Weights that let rare answers count for more."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from datamodules.questions.vocabulary import vocabulary_hash
from eomt.errors import UserError
from eomt.utils.reading import read_json

Method = Literal["sqrt_inverse", "effective_number", "inverse", "log"]
METHODS: tuple[Method, ...] = get_args(Method)
# keeps the logarithm's weight of the rarest finite (Paszke et al. 2016, "ENet")
LOG_OFFSET = 1.02


class WeightEntry(TypedDict):
    """What is read of an answer."""

    weight: Annotated[FiniteFloat, Field(gt=0)]


class WeightsFile(TypedDict):
    """What is read of a file: a hash of the answers, and what stands beside each."""

    vocabulary: str
    answers: dict[str, WeightEntry]


WEIGHTS_FILE = TypeAdapter(WeightsFile)


def raw_weights(counts: np.ndarray, method: Method, beta: float) -> np.ndarray:
    """Return weights of answers up to a common factor, `(num_answers,)`.

    With n the count of an answer and p its share: `inverse` 1 / n; `sqrt_inverse` 1 / sqrt(n); `effective_number`
    (1 - beta) / (1 - beta^n) (Cui et al. 2019, "Class-balanced loss", equation 3, n per answer); `log`
    1 / ln(1.02 + p).

    Args:
        counts: How often each answer occurs, at least once, `(num_answers,)`.
        method: Which formula.
        beta: Of the effective number, in [0, 1).
    """
    counts = counts.astype(np.float64)
    if method == "inverse":
        return 1 / counts
    if method == "sqrt_inverse":
        return counts**-0.5
    if method == "effective_number":
        return (1 - beta) / (1 - beta**counts)
    return 1 / np.log(LOG_OFFSET + counts / counts.sum())


def capped_weights(counts: np.ndarray, raw: np.ndarray, cap: float) -> np.ndarray:
    """Return min(cap, s * raw) with the s for which the mean weight over all samples is 1, `(num_answers,)`.

    Args:
        counts: How often each answer occurs, `(num_answers,)`.
        raw: Weights up to a factor, `(num_answers,)`.
        cap: Largest weight, at least 1, or no s would do.
    """
    order = np.argsort(-raw, kind="stable")
    falling, weighed = raw[order], (counts * raw)[order]
    # the largest weights are capped one by one, until the largest of the others stays below the cap: at each number of
    # capped ones, how many samples they are, and what the others sum to
    num_capped = np.cumsum(counts[order]) - counts[order]
    free = np.cumsum(weighed[::-1])[::-1]
    scales = (float(counts.sum()) - cap * num_capped) / free
    found = np.flatnonzero(scales * falling <= cap)
    return np.minimum(cap, scales[found[0]] * raw) if len(found) else np.full(len(raw), cap)


@dataclass(frozen=True)
class AnswerWeights:
    """Weights of a vocabulary, and what they were made of.

    Attributes:
        method: Formula of the weights.
        beta: Of the effective number.
        cap: Largest weight.
        min_count: Rarer answers are not in the vocabulary.
        counts: Training rows of each answer of the vocabulary, in its order.
        weights: Weight of each, in the same order.
    """

    method: Method
    beta: float
    cap: float
    min_count: int
    counts: dict[str, int]
    weights: dict[str, float]

    def to_json(self) -> str:
        """Return the text of a file that `read_answer_weights` reads."""
        content = {
            "method": self.method,
            "beta": self.beta,
            "cap": self.cap,
            "min_count": self.min_count,
            "num_rows": sum(self.counts.values()),
            "vocabulary": vocabulary_hash(list(self.counts)),
            "answers": {
                answer: {"count": count, "weight": self.weights[answer]} for answer, count in self.counts.items()
            },
        }
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def weigh_answers(counts: Mapping[str, int], method: Method, beta: float, cap: float, min_count: int) -> AnswerWeights:
    """Return weights whose mean over the training rows is 1, none above `cap`.

    Args:
        counts: Training rows of each answer.
        method: Formula, see `raw_weights`.
        beta: Of the effective number, in [0, 1).
        cap: Largest weight, at least 1.
        min_count: What the counts were filtered by, for the record.

    Raises:
        UserError: `beta` or `cap` has an impossible value.
    """
    if not 0 <= beta < 1:
        raise UserError(f"beta: {beta}; must be at least 0 and below 1")
    if not (cap >= 1 and math.isfinite(cap)):
        raise UserError(f"cap: {cap}; must be at least 1, for the mean weight is 1")
    numbers = np.array(list(counts.values()))
    weights = capped_weights(numbers, raw_weights(numbers, method, beta), cap)
    return AnswerWeights(
        method, beta, cap, min_count, dict(counts), dict(zip(counts, map(float, weights), strict=True))
    )


def weights_command(fields: Mapping[str, Any]) -> str:
    """Return the command line that makes weights with these fields; None stands for a default."""
    words = [*("python", "-m", "datamodules.compute_answer_weights")]
    for name, value in fields.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def read_answer_weights(file: Path, answers: Sequence[str], remedy: str) -> dict[str, float]:
    """Read the weight of each answer of a vocabulary, in its order; the file may have another one.

    Args:
        file: JSON that `compute_answer_weights` wrote.
        answers: The vocabulary of the training split.
        remedy: How the right file is made, for messages.

    Raises:
        UserError: The file is damaged or belongs to another vocabulary.
    """
    content = read_json(file, WEIGHTS_FILE, f"make it anew: {remedy}")
    entries = content["answers"]
    if content["vocabulary"] != vocabulary_hash(list(entries)):
        raise UserError(f"{file}: its answers do not fit its hash, it was changed or damaged; make it anew: {remedy}")
    # in whatever order, for each weight stands beside its answer
    if set(entries) != set(answers):
        raise UserError(
            f"{file}: belongs to another vocabulary ({len(entries)} answers; the training split has {len(answers)}, "
            f"{_difference(entries, answers)}); make it anew: {remedy}"
        )
    return {answer: entries[answer]["weight"] for answer in answers}


def _difference(entries: Mapping[str, Any], answers: Sequence[str]) -> str:
    only_here = [answer for answer in answers if answer not in entries]
    known = set(answers)
    only_there = [answer for answer in entries if answer not in known]
    if only_here:
        return f"among them {only_here[0]!r}, which the file lacks"
    return f"without {only_there[0]!r}"
