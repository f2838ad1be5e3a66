"""Losses at points, and the gradient that is computed with them, against PyTorch's own functions and autograd."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.errors import UserError
from eomt.losses import point_losses
from eomt.losses.point_losses import PointLosses, pairwise_losses, softplus_
from eomt.losses.point_sampling import neighbors, sample_each

MASK_WEIGHT, DICE_WEIGHT = 5.0, 3.0


def double(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


def make_case(num_masks: int = 4, num_points: int = 50) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return masks, points, targets and known shares, some of them 0 and 1; float64."""
    masks = double(num_masks, 6, 9, scale=5)
    points = double(num_masks, num_points, 2, seed=1).sigmoid()
    known, share = (double(num_masks, num_points, seed=seed).sigmoid() for seed in (2, 3))
    known[:, ::3], known[:, 1::7] = 1, 0
    share[:, ::2] = 1
    return masks, points, known * share, known


def plain_losses(masks: Tensor, points: Tensor, targets: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return both losses of each mask, `(N,)`, as their definitions read."""
    logits = sample_each(masks, points)
    positive = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    negative = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    error = targets * positive + (known - targets) * negative
    p = logits.sigmoid()
    dice = 1 - (2 * (p * targets).sum(1) + 1) / ((p * known).sum(1) + targets.sum(1) + 1)
    return error.sum(1) / known.sum(1).clamp(min=1), dice


def test_losses_and_their_gradient_equal_autograd() -> None:
    masks, *rest = make_case()
    ours, plain = (masks.clone().requires_grad_() for _ in range(2))

    weighted, cross_entropy, dice = PointLosses.apply(ours, *rest, MASK_WEIGHT, DICE_WEIGHT)
    of_masks = plain_losses(plain, *rest)
    expected = MASK_WEIGHT * of_masks[0].sum() + DICE_WEIGHT * of_masks[1].sum()
    (0.7 * weighted).backward()
    (0.7 * expected).backward()

    for found, value in ((cross_entropy, of_masks[0].sum()), (dice, of_masks[1].sum()), (weighted, expected)):
        assert value > 0.1
        torch.testing.assert_close(found, value, atol=1e-12, rtol=1e-12)
    assert ours.grad is not None
    assert plain.grad is not None
    assert plain.grad.abs().max() > 0.01
    torch.testing.assert_close(ours.grad, plain.grad, atol=1e-14, rtol=1e-10)
    assert not cross_entropy.requires_grad
    assert not dice.requires_grad


def test_a_mask_of_which_nothing_is_known_has_no_gradient() -> None:
    masks, points, targets, known = make_case()
    targets[1], known[1] = 0, 0
    masks.requires_grad_()

    PointLosses.apply(masks, points, targets, known, MASK_WEIGHT, DICE_WEIGHT)[0].backward()

    assert masks.grad is not None
    assert masks.grad[1].abs().max() == 0
    assert masks.grad[0].abs().max() > 0


def test_only_the_gradient_of_the_masks_is_kept() -> None:
    masks, *rest = make_case()
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        PointLosses.apply(masks.requires_grad_(), *rest, MASK_WEIGHT, DICE_WEIGHT)

    assert kept == [masks.numel()]


def test_second_derivatives_are_refused() -> None:
    masks, *rest = make_case()
    weighted, *_ = PointLosses.apply(masks.requires_grad_(), *rest, MASK_WEIGHT, DICE_WEIGHT)

    with pytest.raises(UserError, match="second derivatives"):
        torch.autograd.grad(weighted, masks, create_graph=True)


@pytest.mark.parametrize("points_at_once", [7, 1000])
def test_pairwise_losses_are_the_losses_of_each_pair(points_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_losses, "POINTS", points_at_once)
    masks, points, targets, known = make_case()
    points, known, targets = points[0], known[0], torch.minimum(targets[:3], known[0])

    pairwise = pairwise_losses(masks, *neighbors(points, 6, 9), targets, known)

    assert pairwise[0].shape == pairwise[1].shape == (3, 4)
    for target, query in itertools.product(range(3), range(4)):
        one_pair = plain_losses(masks[query, None], points[None], targets[target, None], known[None])
        for found, expected in zip(pairwise, one_pair, strict=True):
            torch.testing.assert_close(found[target, query], expected[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_that_of_torch(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-30, 30, 601), torch.tensor([-1e4, -100.0, 100.0, 1e4, torch.inf])]).to(dtype)

    found = softplus_(x.clone(), x.sigmoid())

    eps = torch.finfo(dtype).eps
    # below its threshold of 20, torch's is log(1 + exp(x)), above x
    torch.testing.assert_close(found, F.softplus(x, threshold=80), atol=2 * eps, rtol=2 * eps)
