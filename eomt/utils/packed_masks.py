"""Masks of objects as tensors that take little memory, each within a rectangle of its own, a bit for a pixel.

Only what is asked of a mask is unpacked: 1,000 objects in 4 megapixels need no 1,000 masks of that size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn_functional

# in rows and columns of a picture: what lies beside the image
OUTSIDE = -1
# number of bits of each byte
BIT_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
# values of masks at points that are computed at once on a GPU
VALUES_AT_ONCE = 2**24

# top, left and pixels (h, w) bool
Part = tuple[int, int, np.ndarray]
NOTHING: Part = (0, 0, np.zeros((0, 0), dtype=bool))


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """N masks of one image, which may overlap.

    Bits lie in their bytes as in those of whole rows, of which eight columns make one: two masks can be compared byte
    by byte.

    Attributes:
        bits: Rows of all rectangles, each row in bytes of its own, (bytes) uint8.
        rectangles: Top, left, height and width of each, (N, 4) int64; an empty mask may have height and width 0.
        size: Height and width of the image.
    """

    bits: Tensor
    rectangles: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rectangles)

    @classmethod
    def pack(cls, cropped: Sequence[Part], size: tuple[int, int]) -> "PackedMasks":
        """Return masks of their top, left and pixels (h, w) bool."""
        rows = [_packed(left, pixels) for _, left, pixels in cropped]
        bits = np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint8)
        rectangles = [(top, left, *pixels.shape) for top, left, pixels in cropped]
        return cls(torch.from_numpy(bits), torch.tensor(rectangles, dtype=torch.int64).view(-1, 4), size)

    @classmethod
    def of(cls, masks: "Tensor | PackedMasks") -> "PackedMasks":
        """Return masks, bool (N, H, W), packed; those that are packed already as they are."""
        if isinstance(masks, PackedMasks):
            return masks
        assert masks.dtype == torch.bool
        size = (masks.shape[-2], masks.shape[-1])
        return cls.pack([cropped(mask) for mask in masks.cpu().numpy()], size).to(masks.device)

    @classmethod
    def joined(cls, parts: Sequence["PackedMasks"], size: tuple[int, int]) -> "PackedMasks":
        """Return the masks of several, all of an image of this size, as those of one."""
        every = parts or [cls.pack([], size)]
        return cls(torch.cat([part.bits for part in every]), torch.cat([part.rectangles for part in every]), size)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedMasks":
        """Return the masks on a device."""
        bits, rectangles = (part.to(device, non_blocking=non_blocking) for part in (self.bits, self.rectangles))
        return PackedMasks(bits, rectangles, self.size)

    def pin_memory(self) -> "PackedMasks":
        """Return the masks in memory from which a GPU takes them while it computes."""
        return PackedMasks(self.bits.pin_memory(), self.rectangles.pin_memory(), self.size)

    def where(self, kept: Tensor) -> "PackedMasks":
        """Return the masks that a mask (N,) bool, or positions (M,) int64, choose."""
        chosen = torch.arange(len(self))[kept.cpu()]
        places = self._places()
        parts = [self.bits[places[index]] for index in chosen.tolist()]
        bits = torch.cat(parts) if parts else self.bits[:0]
        return PackedMasks(bits, self.rectangles[chosen.to(self.rectangles.device)], self.size)

    # -- whole masks -------------------------------------------------------------------------------------------------

    @property
    def areas(self) -> Tensor:
        """The number of pixels of each mask, int64 (N,)."""
        found = [int(BIT_COUNTS[rows].sum(dtype=np.int64)) for _, _, rows in self._byte_rows()]
        return torch.tensor(found, dtype=torch.int64, device=self.bits.device)

    def parts(self) -> Iterator[Part]:
        """Yield the rectangle of each mask: top, left and pixels, (h, w) bool."""
        rectangles = self.rectangles.tolist()
        for (top, left, _, width), (_, _, rows) in zip(rectangles, self._byte_rows(), strict=True):
            yield top, left, _unpacked(left, width, rows)

    def dense(self) -> Tensor:
        """Return the masks at the size of the image, bool (N, H, W), which takes a byte for each pixel."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for mask, part in zip(masks, self.parts(), strict=True):
            paint(mask, part, True)
        return torch.from_numpy(masks).to(self.bits.device)

    def intersections(self, others: "PackedMasks", wanted: np.ndarray) -> np.ndarray:
        """Return how many pixels masks share with M others of the same image, int64 (N, M).

        Args:
            others: The M masks.
            wanted: Which pairs are looked at, bool (N, M); the rest have 0.
        """
        mine, theirs = self._byte_rows(), others._byte_rows()
        corners, other_corners = (
            np.array([(top, first, top + len(rows), first + rows.shape[1]) for top, first, rows in side]).reshape(-1, 4)
            for side in (mine, theirs)
        )
        starts = np.maximum(corners[:, None, :2], other_corners[:, :2])
        ends = np.minimum(corners[:, None, 2:], other_corners[:, 2:])
        counts = np.zeros(wanted.shape, dtype=np.int64)
        for one, other in np.argwhere(wanted & (starts < ends).all(axis=2)).tolist():
            (top, first), (bottom, last) = starts[one, other].tolist(), ends[one, other].tolist()
            seen, other_seen = (
                rows[top - upper : bottom - upper, first - start : last - start]
                for upper, start, rows in (mine[one], theirs[other])
            )
            counts[one, other] = BIT_COUNTS[seen & other_seen].sum(dtype=np.int64)
        return counts

    # -- pictures ----------------------------------------------------------------------------------------------------

    def shown(self, rows: Tensor, columns: Tensor) -> "PackedMasks":
        """Return what a picture shows of each mask, maybe nothing.

        Args:
            rows: The image's row that each row of the picture shows, (h,) int64, rising or falling, or `OUTSIDE`.
            columns: Likewise, (w,).
        """
        size = (len(rows), len(columns))
        return self.pack([*self._shown(rows.numpy(), columns.numpy())], size).to(self.bits.device)

    def resized(self, size: tuple[int, int], flipped: Sequence[int] = ()) -> Tensor:
        """Return the masks of a mirrored and resized image, none of them empty, (N, *size) bool.

        Args:
            size: Height and width of the picture.
            flipped: Axes along which the image is mirrored before, some of -1 and -2.
        """
        lines = [resized_lines(length, to) for length, to in zip(self.size, size, strict=True)]
        rows, columns = (
            length - 1 - places if axis in flipped else places
            for places, length, axis in zip(lines, self.size, (-2, -1), strict=True)
        )
        masks = torch.zeros(len(self), *size, dtype=torch.bool)
        for mask, seen, part in zip(masks, self._shown(rows.numpy(), columns.numpy()), self.parts(), strict=True):
            paint(mask.numpy(), seen, True)
            if seen is NOTHING:
                # narrower than the distance of the pixels that were looked at
                whole = np.zeros((1, *self.size), dtype=np.float32)
                paint(whole[0], part, 1)
                mask.copy_(nn_functional.adaptive_max_pool2d(torch.from_numpy(whole).flip([*flipped]), size)[0] > 0)
        return masks

    def _shown(self, rows: np.ndarray, columns: np.ndarray) -> Iterator[Part]:
        rectangles = self.rectangles.tolist()
        for (top, left, height, width), (_, _, packed) in zip(rectangles, self._byte_rows(), strict=True):
            in_rows, in_columns = _inside(rows, top, height), _inside(columns, left, width)
            if in_rows is None or in_columns is None:
                yield NOTHING
                continue
            pixels = _unpacked(left, width, packed)
            seen = pixels[rows[in_rows] - top][:, columns[in_columns] - left]
            yield (in_rows.start, in_columns.start, seen) if seen.any() else NOTHING

    # -- points ------------------------------------------------------------------------------------------------------

    def interpolated(self, index: Tensor, weight: Tensor) -> Tensor:
        """Return the share of each mask at points, float (N, P).

        Args:
            index: Pixels around each point, row * width + column, (P, 4) int64.
            weight: Their weights, (P, 4), of the same device as the masks.
        """
        # a subclass may hold no values, only shapes
        if weight.device.type == "cpu" and type(weight) is Tensor:
            return torch.from_numpy(self._on_cpu(index.numpy(), weight.numpy()))
        rows, columns = index // self.size[1], index % self.size[1]
        row_bytes = self._row_bytes()
        sizes = self.rectangles[:, 2] * row_bytes
        table = torch.cat([self.rectangles, row_bytes[:, None], (sizes.cumsum(0) - sizes)[:, None]], dim=1)
        found = weight.new_zeros(len(self), len(weight))
        # one more byte, which points beside all masks look at, for there may be no other
        bits = torch.cat([self.bits, self.bits.new_zeros(1)])
        at_once = max(1, VALUES_AT_ONCE // max(1, len(weight)))
        for part, shares in zip(table.split(at_once), found.split(at_once), strict=True):
            top, left, height, width, in_row, start = part[:, :, None].unbind(1)
            for row, column, share in zip(rows.unbind(1), columns.unbind(1), weight.unbind(1), strict=True):
                is_inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
                byte = (start + (row - top) * in_row + column // 8 - left // 8) * is_inside
                bit = bits[byte] >> (7 - column % 8).to(torch.uint8) & 1
                shares.addcmul_((bit * is_inside).to(shares.dtype), share)
        return found

    def _on_cpu(self, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return what `interpolated` does; only the points near a mask are looked at."""
        rows, columns = index // self.size[1], index % self.size[1]
        upper, lower = rows.min(1), rows.max(1)
        # by their rows
        order = np.argsort(upper.astype(np.int32), kind="stable")
        rows, columns, weight = rows[order], columns[order], weight[order]
        upper, lower, first, last = upper[order], lower[order], columns.min(1), columns.max(1)
        spread = int((lower - upper).max(initial=0))
        found = np.zeros((len(self), len(weight)), dtype=weight.dtype)
        for mask, (top, left, height, width), (_, start, packed) in zip(
            found, self.rectangles.tolist(), self._byte_rows(), strict=True
        ):
            begin, end = np.searchsorted(upper, (top - spread, top + height))
            near = np.flatnonzero((last[begin:end] >= left) & (first[begin:end] < left + width)) + begin
            row, column = rows[near] - top, columns[near]
            is_inside = (row >= 0) & (row < height) & (column >= left) & (column < left + width)
            byte = packed[np.where(is_inside, row, 0), np.where(is_inside, column // 8 - start, 0)]
            shares = weight[near] * (byte >> (7 - column % 8).astype(np.uint8) & is_inside)
            # one after the other, as on a GPU
            mask[order[near]] = shares[:, 0] + shares[:, 1] + shares[:, 2] + shares[:, 3]
        return found

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _row_bytes(self) -> Tensor:
        """Return the bytes of a row of each rectangle, (N,) int64."""
        left, width = self.rectangles[:, 1], self.rectangles[:, 3]
        return (left + width + 7) // 8 - left // 8

    def _places(self) -> list[slice]:
        """Return where the bits of each mask are."""
        ends = (self.rectangles[:, 2] * self._row_bytes()).cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def _byte_rows(self) -> list[Part]:
        """Return the top of each mask, its first byte in whole rows, and its bytes (h, bytes)."""
        bits, row_bytes = self.bits.cpu().numpy(), self._row_bytes().tolist()
        return [
            (top, left // 8, bits[place].reshape(height, in_row))
            for place, (top, left, height, _), in_row in zip(
                self._places(), self.rectangles.tolist(), row_bytes, strict=True
            )
        ]


def cropped(mask: np.ndarray) -> Part:
    """Return a mask (H, W) bool within its smallest rectangle; an empty one has no pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return NOTHING
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]


def paint(canvas: np.ndarray, part: Part, value: float | tuple[int, ...]) -> None:
    """Write a value over the pixels of a mask, on (H, W), or a color, on (H, W, C)."""
    top, left, pixels = part
    height, width = pixels.shape
    canvas[top : top + height, left : left + width][pixels] = value


def resized_lines(length: int, resized: int, mode: str = "nearest-exact") -> Tensor:
    """Return the row (or column) that each of the `resized` ones shows after a resize of `length`, (resized,) int64.

    nearest-exact keeps to the pixel centers, as the image's resize does; nearest would be half a pixel off.
    """
    # float holds numbers up to 2^24, more than an image has rows
    lines = torch.arange(length, dtype=torch.float32)
    return nn_functional.interpolate(lines[None, None], resized, mode=mode)[0, 0].long()


def _packed(left: int, pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape
    # at a fifth of the time of np.pad
    whole_bytes = np.zeros((height, left % 8 + width), dtype=bool)
    whole_bytes[:, left % 8 :] = pixels
    return np.packbits(whole_bytes, axis=1).ravel()


def _unpacked(left: int, width: int, rows: np.ndarray) -> np.ndarray:
    shift = left % 8
    return np.unpackbits(rows, axis=1, count=shift + width).view(bool)[:, shift:]


def _inside(lines: np.ndarray, first: int, number: int) -> slice | None:
    """Return the part of a picture's rows or columns that shows some of the image's; None where none does."""
    inside = np.flatnonzero((lines >= first) & (lines < first + number))
    # they rise or fall, so that those lie side by side
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else None
