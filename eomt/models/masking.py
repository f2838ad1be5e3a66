"""The choice of the patches that a masked autoencoder does not see: at random, or in blocks."""

import math

import torch
from torch import Tensor

from eomt.errors import UserError

# ranges for each rectangle of a block-wise mask: its share of the grid, and its height divided by its width
BLOCK_SHARE = (1 / 12, 1 / 3)
BLOCK_ASPECT = (0.3, 1 / 0.3)
# so many rectangles cover each patch, even in a corner, with a probability above 95 %
NUM_BLOCKS = 64


def check_ratio(mask_ratio: float) -> None:
    """Check that a ratio masks something and keeps something.

    Raises:
        UserError: If it does not.
    """
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio: {mask_ratio}; must be above 0 and below 1")


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """Return how many of `num_patches` patches a mask keeps: num_patches * (1 - mask_ratio), rounded down.

    Raises:
        UserError: If the ratio is outside 0 to 1, or keeps no patch, or masks none.
    """
    check_ratio(mask_ratio)
    kept = int(num_patches * (1 - mask_ratio))
    if not 1 <= kept < num_patches:
        raise UserError(
            f"mask_ratio: {mask_ratio} keeps {kept} of {num_patches} patches; keep at least one and mask at least one, "
            "by another ratio, a larger img_size or a smaller patch_size"
        )
    return kept


def random_masking(
    x: Tensor, mask_ratio: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove random patches, different ones in each sample (He et al., arXiv:2111.06377).

    Args:
        x: Patches, (B, N, D).
        mask_ratio: Share of the patches that is removed.
        generator: Random generator on any device; None takes PyTorch's default.

    Returns:
        `x_masked` (B, K, D), the kept patches, shuffled; `mask` (B, N), 1 where a patch is removed, 0 where it is kept;
        `ids_restore` int64 (B, N), for each patch its place in `x_masked`, or beyond its end if it is removed.

    Raises:
        UserError: See `num_kept`.
    """
    return mask_by_noise(x, random_noise(x.shape[0], x.shape[1], x.device, generator), mask_ratio)


def block_masking(
    x: Tensor, mask_ratio: float, grid: tuple[int, int], generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove patches in rectangles, as many as `random_masking` does (after BEiT, arXiv:2106.08254).

    Args:
        x: Patches, row by row, (B, h * w, D).
        mask_ratio: Share of the patches that is removed.
        grid: Rows and columns of patches, (h, w).
        generator: Random generator on any device; None takes PyTorch's default.

    Returns:
        `x_masked`, `mask` and `ids_restore`, as from `random_masking`.

    Raises:
        UserError: See `num_kept`.
    """
    return mask_by_noise(x, block_noise(x.shape[0], grid, x.device, generator), mask_ratio)


def mask_by_noise(x: Tensor, noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Remove the patches of `x` (B, N, D) with the largest `noise` (B, N); return what `random_masking` returns."""
    num_patches, dim = x.shape[1:]
    kept = num_kept(num_patches, mask_ratio)
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    x_masked = x.gather(1, ids_shuffle[:, :kept, None].expand(-1, -1, dim))
    mask = (ids_restore >= kept).to(torch.float32)
    return x_masked, mask, ids_restore


def apply_mask(x: Tensor, mask: Tensor, token: Tensor | float = 0.0) -> Tensor:
    """Replace the removed patches by `token`, without moving the others.

    Args:
        x: Patches, (B, N, D).
        mask: Mask (B, N), 1 where a patch is removed.
        token: Number, or tensor that broadcasts to x, such as a learned (D,).

    Returns:
        Patches, (B, N, D).
    """
    return torch.where(mask[..., None] > 0, token, x)


def random_noise(
    batch: int, num_patches: int, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Return noise (B, N), whose largest values are at random places."""
    return _rand((batch, num_patches), device, generator)


def block_noise(
    batch: int, grid: tuple[int, int], device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Return noise (B, h * w) whose k largest values fill rectangles, for every k.

    Rectangles are drawn one after the other and may cross the edge of the grid. The earlier a patch is covered, the
    larger is its value. Within a rectangle the upper rows have larger values, so that the last one taken is also a
    rectangle, except for an incomplete row. Patches that no rectangle covers have the smallest values, at random.
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
    """Return uniform values in [0, 1); a generator on the CPU gives the same values for every device."""
    return torch.rand(shape, generator=generator, device=generator.device if generator else device).to(device)
