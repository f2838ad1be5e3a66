"""Normalization of pixels inside the networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.weights.colors import IMAGENET_COLORS, Colors, as_colors
from eomt.utils.images import RGB


class PixelNormalization(nn.Module):
    """Normalization of images to zero mean and unit deviation over the pixels that a network was trained with.

    Of more than three channels, channel c has the mean and deviation of color c modulo 3, as its weights are made of
    that color's, see `eomt.models.weights.backbone.channels`.

    Args:
        mean: Of red, green and blue, 0 to 1; by default ImageNet's.
        std: Their deviation.
        channels: Number of channels C of the images, at least 3.
    """

    mean: Tensor  # (1, C, 1, 1), as is std; in no state dict: they belong to the architecture
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_COLORS[0],
        std: Sequence[float] = IMAGENET_COLORS[1],
        channels: int = RGB,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _of_channels(mean, channels), persistent=False)
        self.register_buffer("std", _of_channels(std, channels), persistent=False)

    @property
    def colors(self) -> tuple[Colors, Colors]:
        """Mean and deviation of red, green and blue."""
        return as_colors(self.mean[:, :RGB]), as_colors(self.std[:, :RGB])

    def set_colors(self, mean: Colors, std: Colors) -> None:
        """Normalize with another mean and deviation from now on."""
        for buffer, values in ((self.mean, mean), (self.std, std)):
            buffer.copy_(_of_channels(values, buffer.shape[1]))

    def forward(self, image: Tensor) -> Tensor:
        """Return normalized pixels, (B, C, H, W), floating point.

        Args:
            image: uint8 (0 to 255) or floating point (0 to 1), (B, C, H, W); the first three channels are red, green
                and blue.

        Raises:
            UserError: If the images have another number of channels.
        """
        if image.shape[1] != self.mean.shape[1]:
            raise UserError(
                f"image: {image.shape[1]} channels, but the network takes {self.mean.shape[1]}; see data.channels and "
                "in_chans of the encoder"
            )
        scale = 255.0 if image.dtype == torch.uint8 else 1.0
        return (image / scale - self.mean) / self.std

    def invert(self, pixels: Tensor) -> Tensor:
        """Return normalized pixels as uint8 images."""
        return ((pixels.float() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _of_channels(colors: Sequence[float], channels: int) -> Tensor:
    """Return values of red, green and blue for each channel, (1, C, 1, 1)."""
    return torch.tensor([colors[channel % RGB] for channel in range(channels)]).view(1, channels, 1, 1)
