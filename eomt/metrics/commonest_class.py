"""What a map of classes is worth that no network draws: the most frequent class of each color, or of each place."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from eomt.utils.labels import IGNORE_INDEX

# gray levels of images without color, colors of others by the upper bits of red, green and blue, rows and columns
LEVELS, BITS, CELLS = 256, 5, 64
# of an image that is learned from; more are thinned out
MOST_PIXELS = 2**18


@dataclass(frozen=True)
class CommonestClass:
    """The most frequent class of each color and of each place in images with their maps.

    Colors are 256 gray levels where no image has any color, else 32 steps each of red, green and blue (of the first
    three channels, where there are more). Places are the cells of 64 rows and columns. Where nothing was seen, the
    most frequent class of all is the answer.

    Attributes:
        of_color: Class of each color, int64.
        of_place: Class of each cell, int64 `(64, 64)`.
        is_gray: Whether colors are gray levels.
    """

    of_color: Tensor
    of_place: Tensor
    is_gray: bool

    @classmethod
    def of(cls, samples: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> "CommonestClass | None":
        """Count the classes of images; None without a pixel that has a class.

        Args:
            samples: Images, uint8 `(K, H, W)` of any number of channels, and class ids, int64 `(H, W)`, 255 = ignored.
            num_classes: Number of classes.
        """
        of_level, of_color = torch.zeros(LEVELS, num_classes), torch.zeros(2 ** (3 * BITS), num_classes)
        of_place, is_gray = torch.zeros(CELLS * CELLS, num_classes), True
        for image, mask in samples:
            step = max(1, math.ceil(math.sqrt(mask.numel() / MOST_PIXELS)))
            places = (cells(mask.shape[0])[:, None] * CELLS + cells(mask.shape[1]))[::step, ::step]
            image, mask = image[:, ::step, ::step], mask[::step, ::step]
            is_gray = is_gray and bool((image == image[:1]).all())
            known = mask != IGNORE_INDEX
            for counts, keys in ((of_level, image[0].long()), (of_color, colors(image)), (of_place, places)):
                cell = keys[known] * num_classes + mask[known]
                counts += torch.bincount(cell, minlength=counts.numel()).view_as(counts)
        if not of_place.any():
            return None
        everywhere = of_place.sum(0).argmax()
        color, place = (
            torch.where(counts.any(1), counts.argmax(1), everywhere)
            for counts in (of_level if is_gray else of_color, of_place)
        )
        return cls(color, place.view(CELLS, CELLS), is_gray)

    def by_color(self, image: Tensor) -> Tensor:
        """Return the class of each pixel's color, int64 `(H, W)`, of an image, uint8 `(K, H, W)`."""
        return self.of_color.to(image.device)[image[0].long() if self.is_gray else colors(image)]

    def by_place(self, image: Tensor) -> Tensor:
        """Return the class of each pixel's place, int64 `(H, W)`, of an image, uint8 `(K, H, W)`."""
        return self.of_place[cells(image.shape[-2])[:, None], cells(image.shape[-1])].to(image.device)


def cells(length: int) -> Tensor:
    """Return the cell of each of some rows or columns."""
    return torch.arange(length) * CELLS // length


def colors(image: Tensor) -> Tensor:
    """Return the number of each pixel's color, int64 `(H, W)`."""
    channels = [image[min(place, len(image) - 1)].long() >> (8 - BITS) for place in range(3)]
    return (channels[0] << 2 * BITS) + (channels[1] << BITS) + channels[2]
