"""Normalization of pixels inside the networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eomt.models.weights.colors import IMAGENET_COLORS, Colors, as_colors


class PixelNormalization(nn.Module):
    """Normalization of images to zero mean and unit deviation over the pixels that a network was trained with.

    Args:
        mean: Of red, green and blue, 0 to 1; by default ImageNet's.
        std: Their deviation.
    """

    mean: Tensor  # (1, 3, 1, 1), as is std; in no state dict: they belong to the architecture
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_COLORS[0], std: Sequence[float] = IMAGENET_COLORS[1]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def colors(self) -> tuple[Colors, Colors]:
        """Mean and deviation of red, green and blue."""
        return as_colors(self.mean), as_colors(self.std)

    def set_colors(self, mean: Colors, std: Colors) -> None:
        """Normalize with another mean and deviation from now on."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(torch.tensor(values).view_as(buffer))

    def forward(self, image: Tensor) -> Tensor:
        """Return normalized pixels, (B, 3, H, W), floating point.

        Args:
            image: RGB, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W).
        """
        scale = 255.0 if image.dtype == torch.uint8 else 1.0
        return (image / scale - self.mean) / self.std

    def invert(self, pixels: Tensor) -> Tensor:
        """Return normalized pixels as uint8 images."""
        return ((pixels.float() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
