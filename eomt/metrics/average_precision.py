"""Average precision of instance masks, as COCO's evaluation defines it.

Lin et al., "Microsoft COCO" (arXiv:1405.0312); its reference is COCOeval of pycocotools.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.utils.distributed import gather
from eomt.utils.packed_masks import PackedMasks

# 0.50, 0.55 to 0.95; T of them
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# 0, 0.01 to 1: where precision is read off
RECALLS = np.linspace(0, 1, 101)
# pixels from and to, both included; S ranges of size
SIZES = {"all": (0, 10**10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 10**10)}
LIMITS = np.array(list(SIZES.values()))
BITS = np.arange(len(SIZES) * len(IOU_THRESHOLDS))
# what is kept of a detection: class, number of its image, score as bits, and where it was matched and ignored, as bits
NUM_COLUMNS = 5


class MaskAveragePrecision(Metric):
    """Average precision (AP) of instance masks; equal to pycocotools' COCOeval.

    In each image and class, detections are matched to true objects by falling score: a detection takes the free object
    with the largest IoU, if that reaches a threshold. Over all images this makes a curve of precision over recall; its
    upper envelope is averaged at 101 recalls. AP is the mean over the IoU thresholds 0.50, 0.55 to 0.95 and the
    classes.

    Crowds, and objects outside a range of size, are no error when they are missed, and what is matched to them is no
    error either; IoU with a crowd is the share of the detection that lies in it. Detections in images without truth are
    false. Classes without any truth are left out. Detections of equal score count in the order of images.

    What is kept of a detection is 40 bytes, whatever its size: masks are forgotten with each image. Images are counted
    in the order in which evaluation's samplers deal them out (every n-th to one of n processes), so figures do not
    depend on the number of processes.

    Args:
        num_classes: C.
        max_detections: The most that count in one image and class; those of the highest scores do.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    detections: list[Tensor]
    num_true: Tensor

    def __init__(self, num_classes: int, max_detections: int = 100) -> None:
        # lists of tensors cannot be synchronized where a process has none; `compute` gathers them
        super().__init__(sync_on_compute=False)
        self.num_classes, self.max_detections = num_classes, max_detections
        # one (D, NUM_COLUMNS) int64 for each image
        self.add_state("detections", [], dist_reduce_fx="cat")
        # objects that count, of each range of size and class
        self.add_state("num_true", torch.zeros(len(SIZES), num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: nothing evaluated is a valid state (all figures are nan), nothing to warn about."""
        return True

    def update(
        self,
        masks: Tensor | PackedMasks,
        scores: Tensor,
        labels: Tensor,
        true_masks: Tensor | PackedMasks,
        true_labels: Tensor,
        true_crowd: Tensor,
        true_areas: Tensor | None = None,
    ) -> None:
        """Match the detections of one image.

        Args:
            masks: Detected objects, packed or bool `(N, H, W)`; they may overlap.
            scores: Of them, floats `(N,)`.
            labels: Classes of them, int64 `(N,)`, 0 to C - 1.
            true_masks: True objects, packed or bool `(M, H, W)`.
            true_labels: Classes of them, int64 `(M,)`.
            true_crowd: Which of them are crowds, bool `(M,)`.
            true_areas: Areas of them that say which are small, medium or large, `(M,)`, such as those that COCO's
                files state; nan, or None, for the number of pixels.
        """
        masks, true_masks = PackedMasks.of(masks), PackedMasks.of(true_masks)
        score, label = scores.detach().double().cpu().numpy(), labels.cpu().numpy()
        true_label, crowd = true_labels.cpu().numpy(), true_crowd.cpu().numpy()
        area, true_area = masks.areas.cpu().numpy(), true_masks.areas.cpu().numpy()
        intersection = intersections(masks, label, true_masks, true_label)
        union = np.where(crowd, area[:, None], area[:, None] + true_area - intersection)
        iou = intersection / union.clip(min=1)

        if true_areas is not None:
            stated = true_areas.cpu().numpy()
            true_area = np.where(np.isnan(stated), true_area, stated)
        is_ignored = outside(true_area) | crowd  # (S, M)
        rows = []
        for class_id in np.union1d(label, true_label):
            of_class, true = np.flatnonzero(label == class_id), np.flatnonzero(true_label == class_id)
            self.num_true[:, class_id] += torch.as_tensor((~is_ignored[:, true]).sum(1), device=self.num_true.device)
            kept = of_class[np.argsort(-score[of_class], kind="stable")[: self.max_detections]]
            matched, ignored = match(iou[np.ix_(kept, true)], is_ignored[:, true], crowd[true])
            ignored |= ~matched & outside(area[kept]).T[:, :, None]
            image = np.full(len(kept), len(self.detections))
            columns = (
                np.full(len(kept), class_id),
                image,
                score[kept].view(np.int64),
                packed(matched),
                packed(ignored),
            )
            rows.append(np.stack(columns, axis=1))
        found = np.concatenate(rows) if rows else np.zeros((0, NUM_COLUMNS), dtype=np.int64)
        self.detections.append(torch.from_numpy(found))

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of everything evaluated so far, in all processes, which must all call this.

        Returns:
            `map`: AP. `ap50`, `ap75`: at these IoU thresholds alone. `ap_small`, `ap_medium`, `ap_large`: of objects up
            to 32 x 32 pixels, between, and from 96 x 96 on. `class_ap`: AP of each class, `(C,)`. float64, in [0, 1],
            nan where there is no truth.
        """
        empty = torch.zeros(0, NUM_COLUMNS, dtype=torch.int64)
        kept = [torch.cat([empty, *(rows.cpu() for rows in self.detections)]).numpy(), self.num_true.cpu().numpy()]
        every, num_true = zip(*gather(kept), strict=True)
        detections, total = np.concatenate(every), np.sum(num_true, axis=0)
        # in the order of images: these were dealt out one by one, so the first of all processes come before the second
        detections = detections[np.argsort(detections[:, 1], kind="stable")]
        of_sizes = np.full((len(SIZES), self.num_classes, len(IOU_THRESHOLDS)), np.nan)
        for class_id in range(self.num_classes):
            of_class = detections[detections[:, 0] == class_id]
            of_class = of_class[np.argsort(-of_class[:, 2].view(np.float64), kind="stable")]
            matched, ignored = unpacked(of_class[:, 3]), unpacked(of_class[:, 4])
            for size, number in enumerate(total[:, class_id]):
                if number:
                    of_sizes[size, class_id] = average_precision(matched[:, size].T, ignored[:, size].T, number)
        of_all = of_sizes[0]
        figures = {"map": of_all, "ap50": of_all[:, 0], "ap75": of_all[:, 5]}
        figures |= {f"ap_{name}": of_sizes[size] for size, name in enumerate(SIZES) if size}
        answer = {name: torch.from_numpy(values).nanmean() for name, values in figures.items()}
        return {**answer, "class_ap": torch.from_numpy(of_all.mean(axis=1))}


def outside(areas: np.ndarray) -> np.ndarray:
    """Return which of N areas are outside each range of size, `(S, N)`."""
    return (areas < LIMITS[:, :1]) | (areas > LIMITS[:, 1:])


def intersections(
    masks: PackedMasks, labels: np.ndarray, true_masks: PackedMasks, true_labels: np.ndarray
) -> np.ndarray:
    """Return the pixels that detections and true objects of the same class share, `(N, M)`; 0 for other pairs."""
    return masks.intersections(true_masks, labels[:, None] == true_labels)


def match(iou: np.ndarray, is_ignored: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match detections, by falling score, to the true objects of an image and class.

    Args:
        iou: `(D, M)`.
        is_ignored: Which objects do not count in each range of size, `(S, M)`.
        crowd: Which are crowds, `(M,)`: any number of detections may be matched to one.

    Returns:
        Which detections are matched, and which of these to something that does not count, both `(D, S, T)`.
    """
    sizes, thresholds = np.indices((len(SIZES), len(IOU_THRESHOLDS)))
    is_taken = np.zeros((len(SIZES), len(IOU_THRESHOLDS), len(crowd)), dtype=bool)
    matched = np.zeros((len(iou), len(SIZES), len(IOU_THRESHOLDS)), dtype=bool)
    ignored = np.zeros_like(matched)
    for detection in np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(axis=1)):
        near = np.flatnonzero(iou[detection] >= IOU_THRESHOLDS[0])
        reached = iou[detection, near] >= IOU_THRESHOLDS[:, None]
        free = reached & (~is_taken[:, :, near] | crowd[near])  # (S, T, K)
        # what counts goes before what does not, then the larger IoU; of equal ones the last
        rank = np.argsort(np.argsort(iou[detection, near], kind="stable")) + 1
        preference = rank + len(near) * ~is_ignored[:, near]
        best = near[(free * preference[:, None]).argmax(axis=2)]
        matched[detection] = free.any(axis=2)
        ignored[detection] = matched[detection] & is_ignored[sizes, best]
        is_taken[sizes, thresholds, best] |= matched[detection]
    return matched, ignored


def average_precision(matched: np.ndarray, ignored: np.ndarray, num_true: int) -> np.ndarray:
    """Return AP at each IoU threshold, `(T,)`.

    Args:
        matched: Of detections by falling score, `(T, D)`.
        ignored: Of them, `(T, D)`.
        num_true: Number of objects that count, at least 1.
    """
    true_positive = np.cumsum(matched & ~ignored, axis=1)
    false_positive = np.cumsum(~matched & ~ignored, axis=1)
    recall = true_positive / num_true
    precision = true_positive / (true_positive + false_positive).clip(min=1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # precision is 0 at recalls that are not reached
    envelope = np.pad(envelope, ((0, 0), (0, 1)))
    at = [np.searchsorted(line, RECALLS) for line in recall]
    return np.take_along_axis(envelope, np.stack(at), axis=1).mean(axis=1)


def packed(outcomes: np.ndarray) -> np.ndarray:
    """Return outcomes `(D, S, T)` as the bits of integers, int64 `(D,)`."""
    return outcomes.reshape(-1, BITS.size) @ (1 << BITS)


def unpacked(numbers: np.ndarray) -> np.ndarray:
    """Return the outcomes `(D, S, T)` that `packed` made integers of."""
    return (numbers[:, None] >> BITS & 1).astype(bool).reshape(-1, len(SIZES), len(IOU_THRESHOLDS))
