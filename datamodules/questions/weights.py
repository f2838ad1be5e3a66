"""Weights of training questions."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.questions.rows import QuestionRow
from datamodules.questions.types import QuestionTypes
from datamodules.questions.vocabulary import index_answers
from eomt.errors import UserError, listed, shortened
from eomt.utils.answers import normalize_answer


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
                f"type_weights: unknown type {shortened(name)!r}; must be one of {listed(types.names)}, "
                "or set it to null"
            )
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(f"type_weights: {name} {weight}; must be above 0")
        weights[known] = weight
    return weights


def weigh_rows(
    rows: Sequence[QuestionRow], of_answer: Mapping[str, float] | None, of_type: Mapping[str, float], language: str
) -> np.ndarray:
    """Return answer weight x type weight of each row, divided by the mean of these, `(num_rows,)`.

    Args:
        rows: The training split.
        of_answer: Weight of each answer of the vocabulary, in its order; None where all are equal.
        of_type: Weight of each type.
        language: Whose rules decide which answers are equal.
    """
    weights = np.array([of_type[row.question_type] for row in rows])
    if of_answer is not None:
        of_place, place = list(of_answer.values()), index_answers(list(of_answer), language)
        weights = weights * [of_place[place[normalize_answer(row.answer, language)]] for row in rows]
    return weights / weights.mean()
