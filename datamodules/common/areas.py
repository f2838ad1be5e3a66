"""Labels that stand for areas, and those of smooth edges and lossy files, which do not."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from eomt.errors import UserError

# so many labels are no sign of smooth edges, however thin their areas are
FEW = 16
# share of the edges of a mask that must have a rim, and pixels of rims, before it looks smooth
MOST_EDGES, FEW_PIXELS = 0.5, 8


class Rims(NamedTuple):
    """Rims of labels between those on both sides, as smoothing leaves them.

    Attributes:
        labels: Labels of the rims' pixels, (N,).
        share: Of the edges where a rim could stand: those between labels that differ by two or more.
    """

    labels: np.ndarray
    share: float

    @property
    def look_smooth(self) -> bool:
        """Whether most edges have one."""
        return len(self.labels) >= FEW_PIXELS and self.share >= MOST_EDGES


def rims(mask: np.ndarray, known: np.ndarray) -> Rims:
    """Return the rims of a mask: along rows and columns, labels that strictly rise or fall from pixel to pixel.

    Args:
        mask: Raw labels, (H, W).
        known: Where they stand for something, (H, W) bool; edges of the rest do not count.
    """
    found, sharp = [], 0
    for labels, counts in ((mask.astype(np.int32), known), (mask.T.astype(np.int32), known.T)):
        steps = np.where(counts[:, 1:] & counts[:, :-1], np.diff(labels), 0)
        found.append(labels[:, 1:-1][steps[:, 1:] * steps[:, :-1] > 0])
        calm = np.pad(steps == 0, ((0, 0), (1, 1)), constant_values=True)
        sharp += int(((np.abs(steps) >= 2) & calm[:, :-2] & calm[:, 2:]).sum())
    pixels = np.concatenate(found)
    return Rims(pixels, len(pixels) / max(1, len(pixels) + sharp))


def check_areas(labels: set[int], masks: Iterable[np.ndarray], field: str, remedy: str, few: int = FEW) -> None:
    """Check that labels stand for areas: most of those that smooth edges and JPEG leave fill none.

    Args:
        labels: Raw labels that would become classes.
        masks: Raw labels of masks, (H, W) each; no more are read than are needed.
        field: What the masks come from, for the message.
        remedy: What would do.
        few: So many labels are taken as they are.

    Raises:
        UserError: If most labels never fill a pixel and its four neighbors.
    """
    if len(labels) <= few:
        return
    filled: set[int] = set()
    for mask in masks:
        # among many labels, a mask may have been enlarged after it became smooth
        filled |= _filling(_without_repeats(mask) if len(labels) > FEW else mask) & labels
        if 2 * len(filled) > len(labels):
            return
    raise UserError(
        f"{field}: {len(labels) - len(filled)} of {len(labels)} labels in the masks fill no area, so the masks look "
        f"smooth or lossy (resized, anti-aliased, JPEG); {remedy}"
    )


def refuse_smooth(masks: Iterable[np.ndarray], field: str, remedy: str) -> None:
    """Check that masks whose labels have gaps are not smooth: these say nothing of how many classes there are.

    Args:
        masks: Raw labels, (H, W) each.
        field: What the masks come from, for the message.
        remedy: What would do.

    Raises:
        UserError: If most of them look smooth.
    """
    look = [rims(mask, np.ones(mask.shape, bool)).look_smooth for mask in masks]
    if 2 * sum(look) > len(look):
        raise UserError(
            f"{field}: the masks look smooth (resized, anti-aliased, JPEG): in {sum(look)} of {len(look)}, rims of "
            f"labels stand between those on both sides; {remedy}"
        )


def _filling(mask: np.ndarray) -> set[int]:
    """Return the labels that fill a pixel and its four neighbors somewhere."""
    center = mask[1:-1, 1:-1]
    sides = (mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:])
    return set(np.unique(center[np.logical_and.reduce([center == side for side in sides])]).tolist())


def _without_repeats(mask: np.ndarray) -> np.ndarray:
    """Return a mask without rows and columns that equal the one before: enlarging to the nearest pixel repeats them."""
    for axis in (0, 1):
        changes = (np.diff(mask.astype(np.int32), axis=axis) != 0).any(1 - axis)
        mask = np.compress([True, *changes], mask, axis=axis)
    return mask
