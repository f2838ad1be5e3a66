"""The loss of the mean patch against its definition."""

import math
from pathlib import Path

import pytest
import torch

from eomt.metrics.mean_patch import MeanPatchLoss
from tests.ranks import on_two_ranks


def make_targets() -> torch.Tensor:
    return torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0)) + torch.arange(5)[:, None]


def test_each_image_is_predicted_by_the_mean_of_the_others() -> None:
    """15.19: what a masked autoencoder has to beat."""
    targets = make_targets()
    metric = MeanPatchLoss(5, 3)
    for start in (0, 3, 6):
        metric.update(targets[start : start + 3])
    errors = []
    for index in range(7):
        others = torch.cat([targets[:index], targets[index + 1 :]])
        errors.append(float((targets[index] - others.mean(0)).square().mean()))
    assert float(metric.compute()) == pytest.approx(sum(errors) / 7, rel=1e-5)


def test_one_image_has_no_rival() -> None:
    """15.19: there are no others."""
    metric = MeanPatchLoss(5, 3)
    metric.update(make_targets()[:1])
    assert math.isnan(float(metric.compute()))


def loss_of(rank: int) -> float:
    metric = MeanPatchLoss(5, 3)
    metric.update(make_targets()[rank::2])
    return float(metric.compute())


def test_two_processes_give_the_figure_of_one(tmp_path: Path) -> None:
    """15.19: sums are gathered."""
    whole = MeanPatchLoss(5, 3)
    whole.update(make_targets())
    assert on_two_ranks(loss_of, tmp_path) == pytest.approx([float(whole.compute())] * 2, rel=1e-5)
