"""Masks: exact in number, repeatable, undone by `ids_restore`; blocks are blocks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.models.masking import apply_mask, block_masking, num_kept, random_masking

GRID = (14, 14)
Masking = Callable[..., tuple[Tensor, Tensor, Tensor]]


def in_blocks(x: Tensor, mask_ratio: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return block_masking(x, mask_ratio, GRID, generator)


both = pytest.mark.parametrize("masking", [random_masking, in_blocks])


def tokens(batch: int = 3, num_patches: int = GRID[0] * GRID[1]) -> Tensor:
    return torch.randn(batch, num_patches, 5, generator=torch.Generator().manual_seed(0))


def edges(mask: Tensor) -> float:
    """How many neighbours differ, of masks (B, h * w)."""
    grid = mask.unflatten(1, GRID)
    return float((grid[:, 1:] != grid[:, :-1]).sum() + (grid[:, :, 1:] != grid[:, :, :-1]).sum())


@both
@pytest.mark.parametrize("mask_ratio", [0.01, 0.25, 0.6, 0.75, 0.9, 0.99])
def test_exactly_the_ratio_is_removed_from_each_sample(masking: Masking, mask_ratio: float) -> None:
    x_masked, mask, _ = masking(tokens(), mask_ratio)
    kept = num_kept(196, mask_ratio)
    assert x_masked.shape == (3, kept, 5)
    assert set(mask.unique().tolist()) == {0, 1}
    assert mask.sum(1).tolist() == [196 - kept] * 3


@both
def test_ids_restore_puts_kept_patches_back_and_the_mask_says_which(masking: Masking) -> None:
    x = tokens()
    x_masked, mask, ids_restore = masking(x, 0.6)
    padded = torch.cat((x_masked, torch.full((3, 196 - x_masked.shape[1], 5), 7.0)), dim=1)
    restored = padded.gather(1, ids_restore[..., None].expand(-1, -1, 5))
    assert torch.equal(restored, apply_mask(x, mask, 7.0))
    assert torch.equal(restored[mask == 0], x[mask == 0])
    assert (restored[mask == 1] == 7).all()


@both
def test_a_generator_repeats_masks_and_leaves_the_global_state_alone(masking: Masking) -> None:
    state = torch.get_rng_state()
    first, again, other = (masking(tokens(), 0.75, torch.Generator().manual_seed(seed))[1] for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], first[1])


def test_a_random_mask_removes_every_patch_equally_often() -> None:
    mask = random_masking(torch.zeros(4000, 16, 1), 0.75, torch.Generator().manual_seed(0))[1]
    # five standard deviations of a frequency in 4000
    assert (mask.mean(0) - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5


@pytest.mark.parametrize("mask_ratio", [0.4, 0.6, 0.75])
def test_blocks_have_a_third_of_the_edges_of_random_masks(mask_ratio: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(100, 196, 1)
    blocks, scattered = (masking(x, mask_ratio, generator)[1] for masking in (in_blocks, random_masking))
    assert edges(blocks) < edges(scattered) / 3


def test_a_small_block_mask_is_one_rectangle_but_for_its_last_row() -> None:
    # 12 patches: less than the least rectangle in the middle of the grid
    masks = in_blocks(torch.zeros(200, 196, 1), 0.06, torch.Generator().manual_seed(0))[1].unflatten(1, GRID)
    whole = 0
    for mask in masks:
        rows = [row.nonzero()[:, 0].tolist() for row in mask if row.any()]
        first, last = rows[0], rows[-1]
        whole += all(row == first for row in rows[:-1]) and last == first[: len(last)]
    # one that hangs over the edge may be smaller
    assert whole > 150


def test_blocks_reach_every_patch_of_a_grid_that_is_not_square() -> None:
    mask = block_masking(torch.zeros(500, 24, 1), 0.5, (4, 6), torch.Generator().manual_seed(0))[1]
    assert mask.mean(0).min() > 0.25
    assert mask.mean(0).max() < 0.75


def test_a_learned_token_gets_the_gradient_of_removed_patches_only() -> None:
    x, token = tokens().requires_grad_(), torch.zeros(5, requires_grad=True)
    mask = random_masking(x, 0.75)[1]
    apply_mask(x, mask, token).sum().backward()
    assert token.grad is not None
    assert torch.equal(token.grad, mask.sum().expand(5))
    assert x.grad is not None
    assert torch.equal(x.grad, (1 - mask)[..., None].expand_as(x))


@both
@pytest.mark.parametrize("mask_ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_ratios_outside_0_to_1_are_refused(masking: Masking, mask_ratio: float) -> None:
    with pytest.raises(UserError, match=r"mask_ratio: .*must be above 0 and below 1"):
        masking(tokens(), mask_ratio)


def test_a_ratio_that_keeps_or_masks_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"mask_ratio: 0.9 keeps 0 of 4 patches"):
        random_masking(tokens(1, 4), 0.9)
    with pytest.raises(UserError, match=r"mask_ratio: 0.5 keeps 0 of 1 patches"):
        random_masking(tokens(1, 1), 0.5)
