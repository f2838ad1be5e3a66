"""Losses of face morph detection: of the two classes, and of pre-training."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError

Kind = Literal["cross_entropy", "bce", "cosface"]


class MorphLoss(nn.Module):
    """Loss of logits of bona fide and morph, each sample weighted by its class.

    Weight times loss is averaged over the samples of a batch. The sum is not divided by the batch's weights: that would
    undo them wherever a batch has one class alone, always so at a batch of one image.

    cross_entropy: that of the softmax.
    bce: binary cross-entropy of the difference of the logits, whose sigmoid is the softmax: another way to the same
    number.
    cosface: cross_entropy with the margin taken off the cosine of the true class (Wang et al., CVPR 2018,
    arXiv:1801.09414, equation 4). It needs a cosine head.

    Args:
        kind: Which loss.
        class_weights: Of bona fide and morph. Together with a balanced sampler they correct twice.
        margin: Of cosface, between the cosines.
        scale: Of cosface: that of the CosineClassifier whose logits it is given.

    Raises:
        UserError: A value is not allowed.
    """

    weights: Tensor

    def __init__(
        self,
        kind: Kind = "cross_entropy",
        class_weights: Sequence[float] = (1.0, 1.0),
        margin: float = 0.3,
        scale: float = 16.0,
    ) -> None:
        super().__init__()
        for name, value, good, allowed in (
            ("kind", kind, kind in get_args(Kind), "one of " + ", ".join(get_args(Kind))),
            (
                "class_weights",
                class_weights,
                len(class_weights) == 2 and all(0 < weight < float("inf") for weight in class_weights),
                "two numbers above 0, of bona fide and morph",
            ),
            ("margin", margin, 0 <= margin < 1, "at least 0 and below 1"),
            ("scale", scale, scale > 0, "above 0"),
        ):
            if not good:
                raise UserError(f"{name}: {value!r}; must be {allowed}")
        self.kind, self.margin, self.scale = kind, margin, scale
        self.register_buffer("weights", torch.tensor(class_weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch, in fp32.

        Args:
            logits: `(B, 2)`, of bona fide and morph; for cosface scale * cosines.
            label: int64 `(B,)`, 1 for a morph.
        """
        logits = logits.float()
        if self.kind == "bce":
            difference = logits[:, 1] - logits[:, 0]
            losses = F.binary_cross_entropy_with_logits(difference, label.float(), reduction="none")
            return (self.weights[label] * losses).mean()
        if self.kind == "cosface":
            logits = logits - self.scale * self.margin * F.one_hot(label, 2)
        return (self.weights[label] * F.cross_entropy(logits, label, reduction="none")).mean()


def mae_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of the patches that were removed, in fp32.

    Args:
        prediction: `(B, N, P)`.
        target: `(B, N, P)`.
        mask: `(B, N)`, 1 where a patch was removed, at least one in the batch.
    """
    error = (prediction.float() - target.float()).square().mean(-1)
    return (error * mask).sum() / mask.sum()
