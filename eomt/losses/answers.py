"""The loss of answers, written or chosen, each sample with its weight."""

import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.utils.distributed import batch_count
from eomt.utils.labels import IGNORED_TOKEN


class AnswerLoss(nn.Module):
    """Cross-entropy of answers.

    An answer that is written counts by the mean over its own tokens, so that a long one weighs no more than a short
    one. Over the samples of a batch, weight times loss is averaged; the sum is not divided by the batch's weights:
    these have mean 1 over the training set, and dividing would undo them wherever a batch has only one of them.

    Args:
        label_smoothing: Share of the target's probability that is spread evenly over all classes, 0 or more, below 1.

    Raises:
        UserError: A value is not allowed.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing: {label_smoothing}; must be at least 0 and below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, `()`, in fp32; 0, with a graph, if no sample has a target.

        Args:
            logits: `(B, L, V)` of tokens, or `(B, C)` of answers.
            target: int64 tokens `(B, L)`, or answers `(B,)`; what is negative, as -100 or -1, is no target.
            weight: `(B,)`; None weighs every sample 1.
        """
        losses = self.per_sample(logits, target)
        if weight is not None:
            losses = weight.to(losses) * losses
        has_target = (target >= 0).view(len(target), -1).any(1)
        return losses.sum() / batch_count(has_target.sum().to(losses), self.training)

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample without weights, `(B,)`, in fp32; 0 where there is no target.

        Args:
            logits: See `forward`.
            target: See `forward`.
        """
        assert logits.shape[:-1] == target.shape, f"{tuple(logits.shape)} and {tuple(target.shape)}"
        losses = F.cross_entropy(
            logits.float().flatten(0, -2),
            target.masked_fill(target < 0, IGNORED_TOKEN).flatten(),
            ignore_index=IGNORED_TOKEN,
            reduction="none",
            label_smoothing=self.label_smoothing,
        ).view(target.shape)
        if target.ndim == 1:
            return losses
        return losses.sum(1) / (target >= 0).sum(1).clamp(min=1)
