"""Metrics of index maps, all from one confusion matrix."""

import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.utils.labels import IGNORE_INDEX


class SegmentationMetric(Metric):
    """Confusion-matrix metrics of index maps.

    Pixels are pooled over everything that was evaluated; per class c, with TP, FP and FN counted in pixels,
    IoU = TP / (TP + FP + FN) and Dice = 2 TP / (2 TP + FP + FN).

    Means run over the classes that occur in the truth or in the predictions, as in torchmetrics and in EoMT's own code:
    a class that is only predicted counts as 0.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # rows are the truth, columns the prediction
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: an empty confusion matrix is a valid state (all metrics are nan), nothing to warn about."""
        return True

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            prediction: Predicted classes, int64 `(B, H, W)`, 0 to C - 1; at ignored pixels it may be anything.
            mask: True classes, int64 `(B, H, W)`, 0 to C - 1, or 255 where ignored.
        """
        num_cells = self.num_classes**2
        # ignored pixels are counted in one cell behind the matrix; selecting the others would wait for the device
        cell = torch.where(mask == IGNORE_INDEX, num_cells, mask * self.num_classes + prediction).flatten()
        # torch.bincount reads its maximum back to the host, even with minlength
        counts = torch.zeros(num_cells + 1, dtype=torch.int64, device=cell.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))
        self.confusion += counts[:-1].view(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics of everything counted so far.

        Returns:
            `iou`, `dice`: scalars, means over the classes that occur. `accuracy`: scalar, the share of pixels predicted
            right. `class_iou`, `class_dice`: `(C,)`, nan for classes that occur neither in the truth nor in the
            predictions. All in [0, 1], and all nan where nothing was evaluated.
        """
        true_positive = self.confusion.diagonal()
        truth, predicted = self.confusion.sum(dim=1), self.confusion.sum(dim=0)
        # 0 / 0, nan, for classes that do not occur
        class_iou = true_positive / (truth + predicted - true_positive)
        class_dice = 2 * true_positive / (truth + predicted)
        return {
            "iou": class_iou.nanmean(),
            "dice": class_dice.nanmean(),
            "accuracy": true_positive.sum() / truth.sum(),
            "class_iou": class_iou,
            "class_dice": class_dice,
        }
