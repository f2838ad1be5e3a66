"""The loss of classification is what its equations say."""

import math

import pytest
import torch

from eomt.errors import UserError
from eomt.losses.classification import ClassificationLoss, balanced_weights

LOGITS = torch.tensor([[0.3, -1.2, 2.0], [1.5, 0.1, -0.4], [0.0, 0.7, 0.2], [2.0, 2.0, -1.0]], dtype=torch.float64)
LABEL = torch.tensor([2, 0, 1, 1])
MARKS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])


def by_hand(weights: list[float], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABEL.tolist(), strict=True):
        norm = math.log(sum(math.exp(value) for value in row))
        for index, value in enumerate(row):
            target = (1 - smoothing) * (index == label) + smoothing / 3
            total += weights[index] * target * (norm - value)
    return total / len(LABEL)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classes_are_weighted_and_smoothed(smoothing: float) -> None:
    weights = [0.5, 2.0, 3.0]
    loss = ClassificationLoss(3, label_smoothing=smoothing, class_weights=weights)
    assert loss(LOGITS, LABEL).item() == pytest.approx(by_hand(weights, smoothing), rel=1e-6)
    # the same, as shares of each class
    one_hot = torch.nn.functional.one_hot(LABEL, 3).float()
    torch.testing.assert_close(loss(LOGITS, one_hot), loss(LOGITS, LABEL))


def test_a_batch_of_one_class_keeps_its_weight() -> None:
    plain, weighted = ClassificationLoss(3), ClassificationLoss(3, class_weights=[1.0, 1.0, 4.0])
    torch.testing.assert_close(weighted(LOGITS[:1], LABEL[:1]), 4 * plain(LOGITS[:1], LABEL[:1]))


def test_labels_are_answered_one_by_one() -> None:
    weights, smoothing = [1.0, 2.0, 5.0], 0.1
    total = 0.0
    for row, marks in zip(LOGITS.tolist(), MARKS.tolist(), strict=True):
        for value, mark, weight in zip(row, marks, weights, strict=True):
            target = mark * (1 - smoothing) + smoothing / 2
            total += weight * target * math.log1p(math.exp(-value)) + (1 - target) * math.log1p(math.exp(value))
    loss = ClassificationLoss(3, True, smoothing, weights)
    assert loss(LOGITS, MARKS).item() == pytest.approx(total / LOGITS.numel(), rel=1e-6)


def test_balanced_weights_make_classes_alike() -> None:
    counts = [10, 30, 60]
    weights = balanced_weights(counts, 100, multi_label=False)
    assert [count * weight for count, weight in zip(counts, weights, strict=True)] == pytest.approx([100 / 3] * 3)
    assert balanced_weights([20, 80], 100, multi_label=True) == pytest.approx([4.0, 0.25])
    assert all(map(math.isfinite, balanced_weights([0, 100], 100, multi_label=True)))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 0.0], [1.0, 2.0, math.nan]])
def test_weights_that_fit_no_classes_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"class_weights: .* for each of 3 classes"):
        ClassificationLoss(3, class_weights=weights)
    with pytest.raises(UserError, match="label_smoothing: 1"):
        ClassificationLoss(3, label_smoothing=1.0)
