"""How well the objects of one image were found, in a single number."""

import numpy as np
from torch import Tensor

from eomt.metrics.average_precision import intersections
from eomt.utils.packed_masks import PackedMasks


def image_quality(
    masks: Tensor | PackedMasks,
    labels: Tensor,
    true_masks: Tensor | PackedMasks,
    true_labels: Tensor,
    true_crowd: Tensor,
) -> tuple[float, dict[str, int]]:
    """Return the panoptic quality of one image, over all of its classes, of objects that may overlap.

    Found objects are matched by falling score to the true object of their class with the largest IoU, from 0.5 on. With
    TP matches, FP found and FN true objects without a partner it is the sum of their IoU / (TP + FP / 2 + FN / 2). What
    lies in a crowd of its class for at least one half is not looked at.

    Args:
        masks: Found objects, the surest first, packed or bool `(N, H, W)`.
        labels: Their classes, int64 `(N,)`.
        true_masks: Packed or bool `(M, H, W)`.
        true_labels: int64 `(M,)`.
        true_crowd: Which are crowds, bool `(M,)`.

    Returns:
        In [0, 1], nan where there is nothing; and the numbers of objects "found", "wrong" and "missed".
    """
    masks, true_masks = PackedMasks.of(masks), PackedMasks.of(true_masks)
    crowd, area, true_area = (part.cpu().numpy() for part in (true_crowd, masks.areas, true_masks.areas))
    shared = intersections(masks, labels.cpu().numpy(), true_masks, true_labels.cpu().numpy())
    union = np.where(crowd, area[:, None], area[:, None] + true_area - shared)
    iou = shared / union.clip(min=1)
    is_free = ~crowd
    quality, wrong = 0.0, 0
    for row in iou:
        fitting = np.where(is_free, row, 0)
        if fitting.max(initial=0) >= 0.5:
            is_free[fitting.argmax()] = False
            quality += float(fitting.max())
        elif row[crowd].max(initial=0) < 0.5:
            wrong += 1
    missed = int(is_free.sum())
    found = len(crowd) - int(crowd.sum()) - missed
    total = found + (wrong + missed) / 2
    return quality / total if total else float("nan"), {"found": found, "wrong": wrong, "missed": missed}
