"""What can be answered from a prompt without a look at the image: the rival of every figure of prompted objects."""

import torch
from torch import Tensor

from eomt.prompts.coordinates import Prompts

NUM_RADII = 10
"""Radii of discs that are tried: the image's shorter side, and each time less by the square root of two."""


def masks_of_prompts(prompts: Prompts, size: tuple[int, int]) -> Tensor:
    """Return the masks that prompts of N objects give by themselves, bool `(K, N, H, W)`.

    A box gives one: itself, filled (K = 1). Clicks give discs around each of them, of `NUM_RADII` sizes.

    Args:
        prompts: Of one image, in its pixels; each object has a box or clicks on it.
        size: Height and width of the image.
    """
    height, width = size
    given = prompts.points if prompts.boxes is None else prompts.boxes
    assert given is not None
    rows = torch.arange(height, device=given.device)[:, None]
    columns = torch.arange(width, device=given.device)
    if prompts.boxes is not None:
        x0, y0, x1, y1 = prompts.boxes[..., None, None].unbind(1)  # (N, 1, 1) each
        return ((columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1))[None]
    x, y = given[..., None, None].unbind(2)  # (N, P, 1, 1) each
    distance = ((columns - x).square() + (rows - y).square()).sqrt().amin(1)  # (N, H, W)
    radii = min(size) * 0.5 ** (torch.arange(NUM_RADII, device=given.device) / 2)
    return distance <= radii[:, None, None, None]
