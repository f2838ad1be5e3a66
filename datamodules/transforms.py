"""Random changes of training images, the same for an image and its mask."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from datamodules.labels import IGNORED


class TrainTransform:
    """Scale jitter, random crop with padding, horizontal flip and photometric distortion.

    At scale 1 the image just covers the crop, which is the scale at which windows are evaluated. Only the part of
    the image that the crop shows is resized.

    Args:
        crop_size: Height and width of what comes out.
        scale_range: Smallest and largest scale.
        flip: Whether to flip half of the images.
        color_jitter: Whether to vary brightness, contrast and saturation.
    """

    def __init__(
        self, crop_size: tuple[int, int], scale_range: tuple[float, float], flip: bool, color_jitter: bool
    ) -> None:
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.flip = flip
        # no hue: by way of floating-point HSV it would take four times as long as all the rest
        self.color_jitter = v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5) if color_jitter else None

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Transform an image (3, H, W) uint8 and its class ids (H, W) uint8 to the crop size."""
        image, mask = self._crop_and_resize(image, mask)
        if self.flip and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        if self.color_jitter is not None:
            image = self.color_jitter(image)
        return self._pad(image, mask)

    def _crop_and_resize(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out what a crop of the scaled image would show, at most `crop_size` large."""
        size = mask.shape
        low, high = self.scale_range
        covering = max(wanted / length for wanted, length in zip(self.crop_size, size, strict=True))
        scale = covering * (low + (high - low) * torch.rand(()).item())
        window = [min(n, max(1, round(wanted / scale))) for wanted, n in zip(self.crop_size, size, strict=True)]
        resized = [
            # a window smaller than the image was cut by the crop, and fills it
            wanted if seen < length else min(wanted, max(1, round(length * scale)))
            for wanted, seen, length in zip(self.crop_size, window, size, strict=True)
        ]
        top, left = (_random_offset(length - seen) for length, seen in zip(size, window, strict=True))
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        image = F.resize(image[:, rows, columns], resized, antialias=True)
        # nearest-exact keeps to the pixel centres, as the image's resize does; nearest would be half a pixel off
        mask = F.resize(mask[None, rows, columns], resized, InterpolationMode.NEAREST_EXACT)[0]
        return image, mask

    def _pad(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Lay what is smaller than the crop at a random place, with black and ignored pixels around it."""
        if mask.shape == self.crop_size:
            return image, mask
        height, width = mask.shape
        top = _random_offset(self.crop_size[0] - height)
        left = _random_offset(self.crop_size[1] - width)
        padding = [left, top, self.crop_size[1] - width - left, self.crop_size[0] - height - top]
        return F.pad(image, padding, fill=[0]), F.pad(mask[None], padding, fill=[IGNORED])[0]


def _random_offset(largest: int) -> int:
    return int(torch.randint(largest + 1, ()).item())
