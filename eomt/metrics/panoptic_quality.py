"""Panoptic quality, as its authors' evaluation defines it.

Kirillov et al., "Panoptic Segmentation" (arXiv:1801.00868); its reference is pq_compute of panopticapi.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.utils.packed_masks import PackedMasks, paint


class PanopticQuality(Metric):
    """Panoptic quality (PQ) of maps in which each pixel belongs to one segment or none; equal to panopticapi.

    A predicted and a true segment of one class match if their IoU is above 0.5, which leaves at most one partner to
    each. With TP matches, FP predicted and FN true segments without a partner, a class has SQ = the mean IoU of its
    matches, RQ = TP / (TP + FP / 2 + FN / 2) and PQ = SQ x RQ. Means run over the classes that occur in the truth or as
    a false positive.

    Pixels of no true segment are unknown (void), and do not count in the union of a match. A predicted segment without
    a partner is no false positive if more than half of it lies in void pixels and the crowd of its class (the last one,
    where an image has several); crowds are never matched and never missed.

    Args:
        num_classes: C.
        stuff_classes: Classes that are stuff; the others are things.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Tensor
    iou_sum: Tensor

    def __init__(self, num_classes: int, stuff_classes: Sequence[int]) -> None:
        super().__init__()
        self.num_classes, self.stuff_classes = num_classes, list(stuff_classes)
        # TP, FP and FN of each class
        self.add_state("counts", torch.zeros(num_classes, 3, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("iou_sum", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: nothing evaluated is a valid state (all figures are nan), nothing to warn about."""
        return True

    def update(
        self,
        segment_map: Tensor,
        segment_classes: Sequence[int] | Tensor,
        true_masks: Tensor | PackedMasks,
        true_labels: Tensor,
        true_crowd: Tensor,
    ) -> None:
        """Match the segments of one image.

        Args:
            segment_map: Which segment each pixel is predicted to be part of, integers `(H, W)`: 1 to N, or 0 for none.
            segment_classes: N classes, of segment 1 first. A segment without pixels does not count.
            true_masks: True segments, packed or bool `(M, H, W)`, that do not overlap.
            true_labels: Classes of them, int64 `(M,)`.
            true_crowd: Which of them are crowds, bool `(M,)`.
        """
        predicted_class = torch.as_tensor(segment_classes, dtype=torch.int64).cpu().numpy()
        true_class, crowd = true_labels.cpu().numpy(), true_crowd.cpu().numpy()
        pixels = shared_pixels(segment_map, len(predicted_class), PackedMasks.of(true_masks))
        area, true_area = pixels.sum(axis=0)[1:], pixels.sum(axis=1)[1:]
        void, shared = pixels[0, 1:], pixels[1:, 1:]

        union = true_area[:, None] + area - shared - void
        iou = np.where(true_class[:, None] == predicted_class, shared, 0) / union.clip(min=1)
        matches = (iou > 0.5) & ~crowd[:, None]  # (M, N)
        true, predicted = np.nonzero(matches)

        # of several crowds of a class the last stays
        crowd_of = {int(true_class[index]): index for index in np.flatnonzero(crowd)}
        in_crowd = [shared[crowd_of[kind], at] if kind in crowd_of else 0 for at, kind in enumerate(predicted_class)]
        is_unknown = void + np.array(in_crowd, dtype=np.int64) > area / 2
        is_false = ~matches.any(axis=0) & (area > 0) & ~is_unknown
        is_missed = ~matches.any(axis=1) & (true_area > 0) & ~crowd
        kinds = (true_class[true], predicted_class[is_false], true_class[is_missed])
        counts = np.stack([np.bincount(classes, minlength=self.num_classes) for classes in kinds], axis=1)
        iou_sum = np.bincount(true_class[true], weights=iou[true, predicted], minlength=self.num_classes)
        self.counts += torch.as_tensor(counts, device=self.counts.device)
        self.iou_sum += torch.as_tensor(iou_sum, device=self.iou_sum.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of everything counted so far.

        Returns:
            `pq`, `sq`, `rq`: means over the classes that occur. `pq_things`, `pq_stuff`: of these alone. `class_pq`:
            `(C,)`. float64, in [0, 1], nan where nothing occurs.
        """
        true_positive, false_positive, false_negative = self.counts.double().unbind(1)
        total = true_positive + (false_positive + false_negative) / 2
        # 0 / 0, nan, for classes that do not occur; without a match SQ is 0
        class_pq, class_rq = self.iou_sum / total, true_positive / total
        class_sq = torch.where(total > 0, self.iou_sum / true_positive.clamp(min=1), torch.nan)
        is_stuff = torch.zeros(self.num_classes, dtype=torch.bool, device=class_pq.device)
        is_stuff[self.stuff_classes] = True
        return {
            "pq": class_pq.nanmean(),
            "sq": class_sq.nanmean(),
            "rq": class_rq.nanmean(),
            "pq_things": class_pq[~is_stuff].nanmean(),
            "pq_stuff": class_pq[is_stuff].nanmean(),
            "class_pq": class_pq,
        }


def shared_pixels(segment_map: Tensor, num_segments: int, true_masks: PackedMasks) -> np.ndarray:
    """Return how many pixels true and predicted segments share, int64 `(1 + M, 1 + N)`; row and column 0 are none."""
    true_map = np.zeros(segment_map.shape, dtype=np.int64)
    for index, part in enumerate(true_masks.parts()):
        paint(true_map, part, index + 1)
    pairs = torch.from_numpy(true_map).to(segment_map.device) * (num_segments + 1) + segment_map
    counts = torch.bincount(pairs.flatten(), minlength=(len(true_masks) + 1) * (num_segments + 1))
    return counts.cpu().numpy().reshape(-1, num_segments + 1)
