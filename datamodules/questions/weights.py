"""How much each training question counts."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.questions.rows import QuestionRow
from datamodules.questions.types import QuestionTypes
from datamodules.questions.vocabulary import normalise_answer
from eomt.errors import UserError


def weigh_types(given: Mapping[str, float], types: QuestionTypes) -> dict[str, float]:
    """Return the weight of each type by its name.

    Args:
        given: Weights of some types, 1 for the others.
        types: The types that there are.

    Raises:
        UserError: A type is unknown, or a weight not above 0.
    """
    weights = dict.fromkeys(types.names, 1.0)
    for name, weight in given.items():
        known = types.named(name)
        if known is None:
            raise UserError(
                f"type_weights: unknown type {name!r}: must be one of {', '.join(types.names)}, or set it to null"
            )
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(f"type_weights: {name} {weight}: must be above 0")
        weights[known] = weight
    return weights


def weigh_rows(
    rows: Sequence[QuestionRow], of_answer: Mapping[str, float] | None, of_type: Mapping[str, float]
) -> np.ndarray:
    """Return answer weight x type weight of each row, divided by the mean of these, `(num_rows,)`.

    Args:
        rows: The training split.
        of_answer: Weight of each normalised answer; None where all are equal.
        of_type: Weight of each type.
    """
    weights = np.array([of_type[row.question_type] for row in rows])
    if of_answer is not None:
        weights = weights * [of_answer[normalise_answer(row.answer)] for row in rows]
    return weights / weights.mean()
