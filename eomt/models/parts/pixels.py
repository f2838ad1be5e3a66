"""Normalization of pixels inside the networks."""

from __future__ import annotations

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn


class PixelNormalisation(nn.Module):
    """uint8 (0 to 255) or floating point (0 to 1) RGB, (B, 3, H, W), to zero mean and unit deviation on ImageNet."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        scale = 255.0 if image.dtype == torch.uint8 else 1.0
        return (image / scale - self.mean) / self.std

    def invert(self, pixels: Tensor) -> Tensor:
        """Normalised pixels as uint8 images."""
        return ((pixels.float() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
