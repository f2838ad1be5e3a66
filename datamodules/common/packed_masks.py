"""Masks of objects as tensors that take little memory, and what a resized, mirrored or cropped image shows of them.

Only what an image shows of an object is computed: a crop out of 4 megapixels with 50 objects needs no 50 masks of that
size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn_functional

# in rows and columns of a picture: what lies beside the image
OUTSIDE = -1


class PackedMasks(NamedTuple):
    """N masks, each within a rectangle of its own, a bit for a pixel.

    Attributes:
        bits: Rows of all rectangles, each row in bytes of its own, (bytes) uint8.
        rectangles: Top, left, height and width of each, (N, 4) int64.
    """

    bits: Tensor
    rectangles: Tensor

    @classmethod
    def pack(cls, cropped: Sequence[tuple[int, int, np.ndarray]]) -> "PackedMasks":
        """Return masks of their top, left and pixels (h, w) bool."""
        rows = [np.packbits(pixels, axis=1).ravel() for _, _, pixels in cropped]
        bits = np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint8)
        rectangles = [(top, left, *pixels.shape) for top, left, pixels in cropped]
        return cls(torch.from_numpy(bits), torch.tensor(rectangles, dtype=torch.int64).view(-1, 4))

    def shown(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a picture shows of the masks.

        Args:
            rows: The image's row that each row of the picture shows, (h,) int64, rising or falling, or `OUTSIDE`.
            columns: Likewise, (w,).

        Returns:
            The M masks of which a pixel is shown, (M, h, w) bool; and their positions among all, (M,) int64.
        """
        picture_rows, picture_columns = rows.numpy(), columns.numpy()
        positions, parts = list[int](), list[tuple[slice, slice, np.ndarray]]()
        for position, (start, (top, left, height, width)) in enumerate(self._places()):
            in_rows, in_columns = _inside(picture_rows, top, height), _inside(picture_columns, left, width)
            if in_rows is None or in_columns is None:
                continue
            pixels = self._pixels(start, height, width)
            seen = pixels[picture_rows[in_rows] - top][:, picture_columns[in_columns] - left]
            if seen.any():
                positions.append(position)
                parts.append((in_rows, in_columns, seen))
        masks = np.zeros((len(parts), len(picture_rows), len(picture_columns)), dtype=bool)
        for mask, (in_rows, in_columns, seen) in zip(masks, parts, strict=True):
            mask[in_rows, in_columns] = seen
        return torch.from_numpy(masks), torch.tensor(positions, dtype=torch.int64)

    def resized(self, source: tuple[int, int], size: tuple[int, int], flipped: Sequence[int] = ()) -> Tensor:
        """Return the masks of a mirrored and resized image, none of them empty, (N, *size) bool.

        Args:
            source: Height and width of the image.
            size: Those that it is resized to.
            flipped: Axes along which it is mirrored before, some of -1 and -2.
        """
        lines = [resized_lines(length, to) for length, to in zip(source, size, strict=True)]
        rows, columns = (
            length - 1 - places if axis in flipped else places
            for places, length, axis in zip(lines, source, (-2, -1), strict=True)
        )
        shown, positions = self.shown(rows, columns)
        masks = shown.new_zeros(len(self.rectangles), *size)
        masks[positions] = shown
        lost = torch.ones(len(masks), dtype=torch.bool).index_fill(0, positions, False)
        for position in lost.nonzero()[:, 0].tolist():
            # narrower than the distance of the pixels that were looked at
            start, (top, left, height, width) = self._places()[position]
            whole = torch.zeros(1, *source)
            whole[0, top : top + height, left : left + width] = torch.from_numpy(self._pixels(start, height, width))
            masks[position] = nn_functional.adaptive_max_pool2d(whole.flip([*flipped]), size)[0] > 0
        return masks

    def _places(self) -> list[tuple[int, list[int]]]:
        """Return where the bits of each mask begin, and its rectangle."""
        rectangles: list[list[int]] = self.rectangles.tolist()
        sizes = [height * _bytes_of(width) for _, _, height, width in rectangles]
        starts = np.cumsum([0, *sizes])[:-1].tolist()
        return list(zip(starts, rectangles, strict=True))

    def _pixels(self, start: int, height: int, width: int) -> np.ndarray:
        packed = self.bits.numpy()[start : start + height * _bytes_of(width)].reshape(height, -1)
        return np.unpackbits(packed, axis=1, count=width).view(bool)


def _bytes_of(width: int) -> int:
    return -(-width // 8)


def _inside(lines: np.ndarray, first: int, number: int) -> slice | None:
    """Return the part of a picture's rows or columns that shows some of the image's; None where none does."""
    inside = np.flatnonzero((lines >= first) & (lines < first + number))
    # they rise or fall, so that those lie side by side
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else None


def resized_lines(length: int, resized: int) -> Tensor:
    """Return the row (or column) that each of the `resized` ones shows after a resize of `length`, (resized,) int64.

    nearest-exact keeps to the pixel centers, as the image's resize does; nearest would be half a pixel off.
    """
    # float holds numbers up to 2^24, more than an image has rows
    lines = torch.arange(length, dtype=torch.float32)
    return nn_functional.interpolate(lines[None, None], resized, mode="nearest-exact")[0, 0].long()
