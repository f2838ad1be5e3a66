"""What a masked autoencoder has to beat: the mean patch at each place, without a look at the image."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanPatchLoss(Metric):
    """Mean squared error of predicting each patch by the mean of the other images' patches at its place.

    Over all patches, removed or not. The mean without an image itself is never stored: with n images the error of a
    patch is (n / (n - 1))^2 times the squared distance from the mean of all of them.
    """

    sums: Tensor
    squares: Tensor
    number: Tensor

    def __init__(self, num_patches: int, values: int) -> None:
        """Set up the metric.

        Args:
            num_patches: Of an image, N.
            values: Of a patch, P.
        """
        super().__init__()
        self.add_state("sums", torch.zeros(num_patches, values), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, target: Tensor) -> None:
        """Take in what is to be predicted of some images, `(B, N, P)`."""
        target = target.float()
        self.sums += target.sum(0)
        self.squares += target.square().mean((1, 2)).sum()
        self.number += len(target)

    def compute(self) -> Tensor:
        """Return the error; nan of fewer than two images."""
        variance = self.squares / self.number - (self.sums / self.number).square().mean()
        return variance * (self.number / (self.number - 1)) ** 2
