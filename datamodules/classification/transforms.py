"""How whole images are brought to a network's size, and changed at random in training."""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.common.color_jitter import jittered


def shown(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle of an image, (C, H, W) uint8, at a size (height, width): resized to cover it, and cut.

    For squares these are the pixels of transformers' processors with `shortest_edge` and a center crop.
    """
    height, width = image.shape[-2:]
    if height * size[1] <= width * size[0]:
        covering = (size[0], max(size[1], int(size[0] * width / height)))
    else:
        covering = (max(size[0], int(size[1] * height / width)), size[1])
    resized = F.resize(image, list(covering), antialias=True)
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    return resized[..., top : top + size[0], left : left + size[1]]


class ClassTransform:
    """A random part of an image, resized; half of them mirrored; brightness, contrast and color changed.

    Args:
        size: Height and width of what comes out.
        least_crop: Smallest share of the image's area that is cut out.
        flip: Whether half of the images are mirrored.
        color: Largest change of brightness, contrast and saturation, as a share; 0 for none.
    """

    def __init__(self, size: tuple[int, int], least_crop: float, flip: bool, color: float) -> None:
        self.crop = v2.RandomResizedCrop(size, scale=(least_crop, 1.0), antialias=True)
        self.flip = flip
        self.jitter = v2.ColorJitter(color, color, color) if color else None

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image (C, H, W) uint8 to (C, *size)."""
        image = self.crop(image)
        if self.flip and bool(torch.rand(()) < 0.5):
            image = image.flip(-1)
        return image if self.jitter is None else jittered(self.jitter, image)
