"""Square-ish windows over images larger than the network was made for."""

from __future__ import annotations

import math

from torch import Tensor
from torchvision.transforms.v2 import functional as TF


def covering_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """The size, in the aspect of `size`, at which an image just covers a window: equal to it in one direction."""
    scale = max(window[0] / size[0], window[1] / size[1])
    return max(window[0], round(size[0] * scale)), max(window[1], round(size[1] * scale))


def window_corners(size: tuple[int, int], window: tuple[int, int]) -> list[tuple[int, int]]:
    """Top-left corners of the fewest evenly spread windows that cover `size`."""

    def starts(length: int, width: int) -> list[int]:
        count = math.ceil(length / width)
        return [round(i * (length - width) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in starts(size[0], window[0]) for left in starts(size[1], window[1])]


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (B, 3, H, W) to `size`, antialiased; the same tensor if it has that size."""
    return image if tuple(image.shape[-2:]) == size else TF.resize(image, list(size), antialias=True)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """int64 (B, H, W) to `size` by nearest neighbours."""
    nearest = TF.InterpolationMode.NEAREST
    return mask if tuple(mask.shape[-2:]) == size else TF.resize(mask, list(size), interpolation=nearest)
