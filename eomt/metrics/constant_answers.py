"""Answers that need no network, measured beside those of one: the best of a few constant rules."""

import torch
from torch import Tensor
from torchmetrics import Metric

# of box and clicks: the names that their rules have among the figures
RIVALS = {"box": "filled", "centre": "disc", "points": "disc"}


class BestConstantRule(Metric):
    """IoU and Dice of the best of K rules that answer every object alike, as `PromptedSegmentationMetric` defines them.

    The rule is chosen with the truth at hand, on the very images that are measured: no constant rule of these is
    better.

    Args:
        num_rules: Number K of rules.
    """

    full_state_update = False
    iou: Tensor
    dice: Tensor
    num_images: Tensor

    def __init__(self, num_rules: int) -> None:
        super().__init__()
        # sums over images
        self.add_state("iou", torch.zeros(num_rules), dist_reduce_fx="sum")
        self.add_state("dice", torch.zeros(num_rules), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Tensor, masks: Tensor) -> None:
        """Add the objects of one image.

        Args:
            answers: What each rule answers, bool `(K, N, H, W)`.
            masks: True masks, none empty, bool `(N, H, W)`.
        """
        intersection = (answers & masks).sum((2, 3)).float()
        total = (answers.sum((2, 3)) + masks.sum((1, 2))).float()
        self.iou += (intersection / (total - intersection)).mean(1)
        self.dice += (2 * intersection / total).mean(1)
        self.num_images += 1

    def compute(self) -> dict[str, float]:
        """Return `iou` and `dice` of the rule with the best IoU; nan without an image."""
        best = self.iou.argmax()
        return {name: float(sums[best] / self.num_images) for name, sums in (("iou", self.iou), ("dice", self.dice))}
