"""Random brightness, contrast and saturation of images with any number of channels."""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from eomt.utils.images import RGB


def jittered(jitter: v2.ColorJitter, image: Tensor) -> Tensor:
    """Change an image at random, (C, H, W) uint8.

    Of three channels as torchvision does. Of more, brightness is multiplied alike in all of them, and contrast of each
    changes around its own mean; saturation, which is of colors, does not change.

    Args:
        jitter: Ranges of the changes.
        image: The image.
    """
    if len(image) == RGB:
        return jitter(image)
    changes = []
    if jitter.brightness is not None:
        brightness = _drawn(jitter.brightness)
        changes.append(lambda value: F.adjust_brightness(value, brightness))
    if jitter.contrast is not None:
        contrast = _drawn(jitter.contrast)
        changes.append(lambda value: F.adjust_contrast(value, contrast))
    for place in torch.randperm(len(changes)).tolist():
        # a channel is a gray image
        image = torch.cat([changes[place](channel[None]) for channel in image])
    return image


def _drawn(limits: list[float] | tuple[float, ...]) -> float:
    low, high = limits
    return torch.empty(()).uniform_(float(low), float(high)).item()
