import math

import pytest
import torch
from torch import Tensor

from eomt.metrics.image_quality import image_quality


def row(*spans: tuple[int, int]) -> Tensor:
    """Return masks of 1 x 30 pixels."""
    masks = torch.zeros(len(spans), 1, 30, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def quality(found: Tensor, true: Tensor, labels: list[int], true_labels: list[int], crowd: list[bool]) -> tuple:
    return image_quality(found, torch.tensor(labels), true, torch.tensor(true_labels), torch.tensor(crowd))


def test_matches_wrong_and_missed_objects() -> None:
    found, true = row((0, 10), (12, 14)), row((0, 8), (20, 30))
    value, numbers = quality(found, true, [0, 0], [0, 0], [False, False])
    assert numbers == {"found": 1, "wrong": 1, "missed": 1}
    assert value == pytest.approx(0.8 / (1 + 0.5 + 0.5))


def test_another_class_is_no_match() -> None:
    assert quality(row((0, 10)), row((0, 10)), [1], [0], [False]) == (0, {"found": 0, "wrong": 1, "missed": 1})


def test_a_true_object_is_matched_once_and_crowds_take_the_rest() -> None:
    found = row((0, 10), (0, 9), (20, 25), (22, 28))
    value, numbers = quality(found, row((0, 10), (20, 30)), [0, 0, 0, 0], [0, 0], [False, True])
    assert (value, numbers) == (1 / 1.5, {"found": 1, "wrong": 1, "missed": 0})


def test_nothing_is_no_number() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert math.isnan(image_quality(row(), none, row(), none, none.bool())[0])
