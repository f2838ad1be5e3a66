"""Labels that stand for areas, and those of smooth edges and lossy files, which do not."""

from collections.abc import Iterable

import numpy as np

from eomt.errors import UserError


def check_areas(labels: set[int], masks: Iterable[np.ndarray], field: str, remedy: str) -> None:
    """Check that labels stand for areas: most of those that smooth edges and JPEG leave fill none.

    Args:
        labels: Raw labels that would become classes.
        masks: Raw labels of masks, (H, W) each; no more are read than are needed.
        field: What the masks come from, for the message.
        remedy: What would do.

    Raises:
        UserError: If most labels never fill a pixel and its four neighbors.
    """
    filled: set[int] = set()
    for mask in masks:
        center = mask[1:-1, 1:-1]
        sides = (mask[:-2, 1:-1], mask[2:, 1:-1], mask[1:-1, :-2], mask[1:-1, 2:])
        filled |= set(np.unique(center[np.logical_and.reduce([center == side for side in sides])]).tolist()) & labels
        if 2 * len(filled) > len(labels):
            return
    raise UserError(
        f"{field}: {len(labels) - len(filled)} of {len(labels)} labels in the masks fill no area, so the masks look "
        f"smooth or lossy (resized, anti-aliased, JPEG); {remedy}"
    )
