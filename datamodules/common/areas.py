"""Labels that stand for areas, and those of smooth edges and lossy files, which do not."""

from collections.abc import Iterable

import numpy as np

from eomt.errors import UserError

# so many labels are no sign of smooth edges, however thin their areas are
FEW = 16


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
