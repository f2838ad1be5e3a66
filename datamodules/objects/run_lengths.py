"""COCO's run lengths: counts of pixels that are not, and are, of a mask in turn, down the first column, then the next.

Compressed, each count is the difference to the one before the last, in digits of 5 bits, the lowest first (cocoapi,
`rleToString`). They are decoded here, and not by pycocotools, which decodes whole images, and trusts what it is given.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from datamodules.objects.annotation import CroppedMask
from eomt.errors import UserError

# of the text: what stands for 0, the mark that more digits follow, and the sign in the last one
ZERO, MORE, SIGN = 48, 0x20, 0x10
DIGIT_BITS = 5
# of 60 bits
MOST_DIGITS = 12


def compress(counts: Sequence[int], size: tuple[int, int], place: str) -> bytes:
    """Return counts as compressed text.

    Args:
        counts: Whole numbers.
        size: Height and width of the image.
        place: File and object, for messages.

    Raises:
        UserError: They are none of an image of that size.
    """
    _check(np.array(counts, dtype=np.float64), size, place)
    text: bytes = coco_mask.frPyObjects({"counts": list(counts), "size": list(size)}, *size)["counts"]
    return text


def count_pixels(text: bytes, size: tuple[int, int], place: str) -> int:
    """Return the number of pixels of the mask of compressed counts; arguments are those of `compress`.

    Raises:
        UserError: The counts are none of an image of that size.
    """
    counts = _counts(text, place)
    _check(counts, size, place)
    return int(counts[1::2].sum())


def decode_counts(text: bytes, size: tuple[int, int]) -> CroppedMask | None:
    """Return the mask of compressed counts that were checked; None for an empty one."""
    height = size[0]
    counts = _counts(text, "")
    ends = np.cumsum(counts)
    is_run = counts[1::2] > 0
    ends, starts = ends[1::2][is_run], (ends - counts)[1::2][is_run]
    if not len(ends):
        return None
    # pixels stand column by column: the mask's own columns are one piece
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    changes = np.zeros((right - left) * height + 1, dtype=np.int8)
    # runs of no pixels between may leave one that begins where another ends
    np.add.at(changes, starts - left * height, 1)
    np.add.at(changes, ends - left * height, -1)
    columns = np.cumsum(changes[:-1], dtype=np.int8).view(bool).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(0))
    return CroppedMask(int(rows[0]), left, np.ascontiguousarray(columns[:, rows[0] : rows[-1] + 1].T))


def _counts(text: bytes, place: str) -> np.ndarray:
    """Return the counts of compressed text, (N,) int64."""
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - ZERO
    ends = np.flatnonzero((digits & MORE) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.zeros(0, dtype=np.int64)
    lengths = ends - starts + 1
    if (
        len(digits) and (digits.min() < 0 or digits.max() >= 2 * MORE or not len(ends) or ends[-1] + 1 < len(digits))
    ) or lengths.max(initial=0) > MOST_DIGITS:
        raise UserError(f"{place}: counts are no run lengths of COCO; export the annotation again")
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((digits & (MORE - 1)) << (DIGIT_BITS * places), starts)
    counts -= np.where(digits[ends] & SIGN, np.int64(1) << (DIGIT_BITS * lengths), 0)
    # from the fourth on they are differences to the one before the last
    for first in (1, 2):
        counts[first::2] = np.cumsum(counts[first::2])
    return counts


def _check(counts: np.ndarray, size: tuple[int, int], place: str) -> None:
    pixels, found = size[0] * size[1], float(counts.sum(dtype=np.float64))
    if counts.min(initial=0) < 0:
        raise UserError(f"{place}: a run length of {counts.min():.0f} pixels; export the annotation again")
    if found != pixels:
        raise UserError(
            f"{place}: run lengths of {found:.0f} pixels for an image of {size[0]} x {size[1]} (height x width), which "
            f"has {pixels}; export the annotation again"
        )
