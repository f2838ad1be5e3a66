"""The loss of image classification."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError


def balanced_weights(counts: Sequence[int], num_images: int, multi_label: bool) -> list[float]:
    """Return class weights with which every class matters alike.

    Args:
        counts: Training images that show each class.
        num_images: Training images.
        multi_label: See `ClassificationLoss`.

    Returns:
        N / (C n_c), whose mean over the images is 1; of labels the images without one over those with it.
    """
    known = [max(count, 1) for count in counts]
    if multi_label:
        return [max(num_images - count, 1) / count for count in known]
    return [num_images / (len(known) * count) for count in known]


class ClassificationLoss(nn.Module):
    """Cross-entropy over classes, or over "shown" and "not shown" of each label.

    Weight times loss is averaged over the images of a batch, and not divided by the batch's weights: that would undo
    them wherever a batch has one class alone.

    Args:
        num_classes: Number of classes C.
        multi_label: Whether an image may have any number of them.
        label_smoothing: Share of the target that is spread evenly over all classes; of labels, over both answers.
        class_weights: Of each class; None for 1. Where images have several labels, it multiplies the loss of a label
            only in the images that show it.

    Raises:
        UserError: A value is not allowed.
    """

    weights: Tensor

    def __init__(
        self,
        num_classes: int,
        multi_label: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing: {label_smoothing}; must be at least 0 and below 1")
        self.num_classes, self.multi_label, self.label_smoothing = num_classes, multi_label, label_smoothing
        self.register_buffer("weights", torch.ones(num_classes), persistent=False)
        if class_weights is not None:
            self.set_weights(class_weights)

    def set_weights(self, class_weights: Sequence[float]) -> None:
        """Weight classes so from now on.

        Raises:
            UserError: They are not one for each class, or not above 0.
        """
        if len(class_weights) != self.num_classes or not all(0 < weight < float("inf") for weight in class_weights):
            given = f"{len(class_weights)} numbers" if len(class_weights) > 8 else str(list(class_weights))
            raise UserError(f"class_weights: {given}; must be a number above 0 for each of {self.num_classes} classes")
        self.weights.copy_(torch.tensor(class_weights))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch, in fp32.

        Args:
            logits: `(B, C)`.
            label: int64 `(B,)`; or shares of each class, float `(B, C)`, as of mixed images or of several labels.
        """
        logits = logits.float()
        if not self.multi_label:
            losses = F.cross_entropy(
                logits, label, self.weights, reduction="none", label_smoothing=self.label_smoothing
            )
            return losses.mean()
        target = label * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.weights)
