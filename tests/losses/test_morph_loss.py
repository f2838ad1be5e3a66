"""Losses of morph detection against the formulas, sample by sample."""

import math

import pytest
import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.losses.morph import Kind, MorphLoss, mae_loss

LABEL = torch.tensor([0, 1, 1, 0, 1])
WEIGHTS = (1.0, 3.0)


def logits() -> Tensor:
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def negative_log_likelihoods(logits: Tensor) -> list[float]:
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    return [-math.log(row[label] / sum(row)) for row, label in zip(rows, LABEL.tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_samples_are_weighed_and_divided_by_their_number(kind: Kind) -> None:
    """15.15: class weights did nothing where a batch has one class."""
    weights = [WEIGHTS[label] for label in LABEL.tolist()]
    each = negative_log_likelihoods(logits())
    expected = sum(w * value for w, value in zip(weights, each, strict=True)) / 5
    assert MorphLoss(kind, WEIGHTS)(logits(), LABEL).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "cosface"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradients_do_not_depend_on_how_samples_are_grouped(kind: Kind, size: int) -> None:
    """15.15: at a batch of one image with accumulation the morphs' share of the gradient stayed what it was."""
    loss = MorphLoss(kind, WEIGHTS)
    gradients = []
    for step in (5, size):
        given = logits().double().requires_grad_()
        for start in range(0, 5, step):
            part = slice(start, start + step)
            share = len(LABEL[part]) / 5
            (loss(given[part], LABEL[part]) * share).backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


def test_bce_and_cross_entropy_are_one_with_equal_weights() -> None:
    torch.testing.assert_close(MorphLoss("bce")(logits(), LABEL), MorphLoss("cross_entropy")(logits(), LABEL))


def test_cosface_takes_the_margin_off_the_true_class() -> None:
    cosines = logits().tanh()
    expected = torch.tensor(0.0)
    for row, label in zip(cosines, LABEL.tolist(), strict=True):
        true, other = 8 * (row[label] - 0.2), 8 * row[1 - label]
        expected += WEIGHTS[label] * (torch.logaddexp(true, other) - true)
    expected /= len(LABEL)
    found = MorphLoss("cosface", WEIGHTS, margin=0.2, scale=8.0)(8 * cosines, LABEL)
    torch.testing.assert_close(found, expected)


def test_cosface_without_a_margin_is_cross_entropy_and_grows_with_it() -> None:
    losses = [MorphLoss("cosface", margin=margin)(logits(), LABEL) for margin in (0.0, 0.1, 0.3)]
    torch.testing.assert_close(losses[0], MorphLoss()(logits(), LABEL))
    assert losses[0] < losses[1] < losses[2]


def test_losses_are_computed_in_fp32() -> None:
    for kind in ("cross_entropy", "bce", "cosface"):
        loss = MorphLoss(kind)(logits().bfloat16(), LABEL)
        assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "margin"},
        {"class_weights": [1.0]},
        {"class_weights": [1.0, 0.0]},
        {"class_weights": [1.0, float("nan")]},
        {"margin": -0.1},
        {"margin": 1.0},
        {"scale": 0.0},
    ],
)
def test_values_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))}: .*must be"):
        MorphLoss(**fields)


def test_mae_loss_is_the_mean_over_removed_patches_only() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 2, 6, 4, generator=generator)
    mask = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]).float()
    places = [(0, 0), (0, 3), (1, 2)]
    expected = sum(float(((prediction[p] - target[p]) ** 2).mean()) for p in places) / 3
    assert mae_loss(prediction, target, mask).item() == pytest.approx(expected, rel=1e-5)
    prediction[mask == 0] = 1e6
    assert mae_loss(prediction, target, mask).item() == pytest.approx(expected, rel=1e-5)
