"""Figures of classification against counting by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from eomt.metrics.classification import ClassificationMetric

NAMES = ["a", "b", "c", "d"]


def answers(count: int = 60) -> tuple[Tensor, Tensor]:
    """Probabilities of four classes, of which none shows the last."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (count,), generator=generator)
    logits = torch.randn(count, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(label, 4)
    return logits.softmax(1), label


def measured(probabilities: Tensor, label: Tensor, several: bool = False) -> dict[str, float]:
    metric = ClassificationMetric(probabilities.shape[1], several)
    for part in range(0, len(label), 7):
        metric.update(probabilities[part : part + 7], label[part : part + 7])
    return metric.compute(NAMES[: probabilities.shape[1]])


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    pairs = [(x > y) + 0.5 * (x == y) for x in scores[positive] for y in scores[~positive]]
    return float(np.mean(pairs))


def precision_at_hits(scores: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-scores)
    hits = positive[order]
    return float(np.mean([hits[: place + 1].mean() for place in np.flatnonzero(hits)]))


def test_one_class_each() -> None:
    probabilities, label = answers()
    found = measured(probabilities, label)
    scores, truth = probabilities.numpy(), label.numpy()
    said = scores.argmax(1)
    f1 = [2 * ((said == c) & (truth == c)).sum() / ((said == c).sum() + (truth == c).sum()) for c in range(3)]
    assert found["accuracy"] == pytest.approx((said == truth).mean())
    # a class that no image shows is in no mean, though it was answered
    assert (said == 3).any()
    assert found["f1"] == pytest.approx(np.mean(f1))
    assert math.isnan(found["f1/d"])
    assert [found[f"f1/{name}"] for name in "abc"] == pytest.approx(f1)
    assert found["auroc"] == pytest.approx(np.mean([auroc(scores[:, c], truth == c) for c in range(3)]), abs=1e-6)
    confidence, right = scores.max(1), said == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-6)


def test_several_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    label = (torch.rand(50, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.0])).float()
    probabilities = (torch.randn(50, 3, generator=generator) + 2 * label).sigmoid()
    found = measured(probabilities, label, several=True)
    scores, truth = probabilities.numpy(), label.numpy() > 0
    expected = [precision_at_hits(scores[:, c], truth[:, c]) for c in range(2)]
    assert [found["map/a"], found["map/b"]] == pytest.approx(expected, abs=1e-6)
    assert found["map"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert math.isnan(found["map/c"])
    assert found["exact_match"] == pytest.approx(((scores > 0.5) == truth).all(1).mean())


def test_one_answer_for_all_images() -> None:
    probabilities, label = answers()
    metric = ClassificationMetric(4, False)
    metric.update(probabilities, label)
    found = metric.constant_figures([5, 9, 2, 0])
    constant = torch.zeros_like(probabilities)
    constant[:, 1] = 1
    expected = measured(constant, label)
    assert found["majority_accuracy"] == pytest.approx(expected["accuracy"])
    assert found["majority_f1"] == pytest.approx(expected["f1"])
    several = ClassificationMetric(2, True)
    marks = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    several.update(torch.rand(4, 2), marks)
    # of one order of all images, the precision is on average the share
    assert several.constant_figures([1, 1])["constant_map"] == pytest.approx((0.75 + 0.25) / 2)


def test_nothing_is_no_figure() -> None:
    for several in (False, True):
        metric = ClassificationMetric(3, several)
        metric.update(torch.zeros(0, 3), torch.zeros((0, 3) if several else 0))
        assert all(math.isnan(value) for value in metric.compute(["a", "b", "c"]).values())
        assert metric.constant_figures([1, 2, 3]) == {}
