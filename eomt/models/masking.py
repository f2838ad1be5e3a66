"""Which patches a masked autoencoder does not see: at random, or block by block."""

import math

import torch
from torch import Tensor

from eomt.errors import UserError

# Of one rectangle of a block-wise mask: its share of the grid, and its height by its width.
BLOCK_SHARE = (1 / 12, 1 / 3)
BLOCK_ASPECT = (0.3, 1 / 0.3)
# As many rectangles leave less than one patch in twenty uncovered, even in the corners.
NUM_BLOCKS = 64


def check_ratio(mask_ratio: float) -> None:
    """That something is masked and something kept.

    Raises:
        UserError: if not.
    """
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio: {mask_ratio}, must be above 0 and below 1")


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """How many of `num_patches` patches a mask leaves: the whole part of num_patches * (1 - mask_ratio).

    Raises:
        UserError: for a ratio outside 0 to 1, or one that keeps no patch or masks none.
    """
    check_ratio(mask_ratio)
    kept = int(num_patches * (1 - mask_ratio))
    if not 1 <= kept < num_patches:
        raise UserError(
            f"mask_ratio: {mask_ratio} keeps {kept} of {num_patches} patches, must keep at least one and mask at least "
            "one; choose another ratio, a larger img_size or a smaller patch_size"
        )
    return kept


def random_masking(
    x: Tensor, mask_ratio: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Removes patches chosen at random, in each sample others (He et al., arXiv:2111.06377).

    Args:
        x: (B, N, D).
        mask_ratio: share of the patches that is removed.
        generator: where the chance comes from, on any device; None takes PyTorch's.

    Returns:
        `x_masked` (B, K, D), the kept patches, shuffled; `mask` (B, N), 1 where a patch is removed, 0 where it is kept;
        `ids_restore` int64 (B, N), for each patch its place in `x_masked`, or beyond its end if it is removed.

    Raises:
        UserError: see `num_kept`.
    """
    return mask_by_noise(x, random_noise(x.shape[0], x.shape[1], x.device, generator), mask_ratio)


def block_masking(
    x: Tensor, mask_ratio: float, grid: tuple[int, int], generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Removes rectangles of patches, as many patches as `random_masking` (after BEiT, arXiv:2106.08254).

    Args:
        x: (B, h * w, D), row by row.
        mask_ratio: share of the patches that is removed.
        grid: (h, w).
        generator: where the chance comes from, on any device; None takes PyTorch's.

    Returns:
        As `random_masking` does.

    Raises:
        UserError: see `num_kept`.
    """
    return mask_by_noise(x, block_noise(x.shape[0], grid, x.device, generator), mask_ratio)


def mask_by_noise(x: Tensor, noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Removes the patches of the largest `noise` (B, N); what it returns is that of `random_masking`."""
    num_patches, dim = x.shape[1:]
    kept = num_kept(num_patches, mask_ratio)
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    x_masked = x.gather(1, ids_shuffle[:, :kept, None].expand(-1, -1, dim))
    mask = (ids_restore >= kept).to(torch.float32)
    return x_masked, mask, ids_restore


def apply_mask(x: Tensor, mask: Tensor, token: Tensor | float = 0.0) -> Tensor:
    """Replaces the removed patches by `token`; the others stay as they are and where they are.

    Args:
        x: (B, N, D).
        mask: (B, N), 1 where a patch is removed.
        token: a number, or a tensor that broadcasts to x, such as a learned (D,).

    Returns:
        (B, N, D).
    """
    return torch.where(mask[..., None] > 0, token, x)


def random_noise(
    batch: int, num_patches: int, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Noise (B, N) whose largest values are at random places."""
    return _rand((batch, num_patches), device, generator)


def block_noise(
    batch: int, grid: tuple[int, int], device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Noise (B, h * w) whose largest values, however many are taken, fill rectangles.

    Rectangles are drawn one after the other, and may hang over the edge. A patch is the larger the earlier it is
    covered; within a rectangle the upper rows come first, so that the last one taken is a rectangle, too, but for a
    row. What none covers is taken last, at random.
    """
    height, width = grid
    drawn = _rand((4, batch, NUM_BLOCKS, 1), device, generator)
    share = BLOCK_SHARE[0] + drawn[0] * (BLOCK_SHARE[1] - BLOCK_SHARE[0])
    aspect = torch.exp(math.log(BLOCK_ASPECT[0]) + drawn[1] * math.log(BLOCK_ASPECT[1] / BLOCK_ASPECT[0]))
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    in_rows = (rows - drawn[2]).abs() < (share * aspect).sqrt() / 2  # (B, blocks, h)
    in_columns = (columns - drawn[3]).abs() < (share / aspect).sqrt() / 2  # (B, blocks, w)
    covered = (in_rows[..., None] & in_columns[..., None, :]).flatten(2)  # (B, blocks, h * w)
    order = torch.arange(NUM_BLOCKS, device=device)[:, None]
    first = torch.where(covered, order, NUM_BLOCKS).amin(1)
    from_top = 1 - torch.arange(height * width, device=device) / (height * width)
    at_random = _rand((batch, height * width), device, generator)
    return torch.where(first < NUM_BLOCKS, NUM_BLOCKS - first + from_top, at_random)


def _rand(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform in 0 to 1; drawn where the generator is, so that one on the CPU gives the same on every device."""
    return torch.rand(shape, generator=generator, device=generator.device if generator else device).to(device)
