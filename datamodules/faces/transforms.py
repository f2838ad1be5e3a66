"""Random changes of faces, for detection and for pre-training."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

JPEG_QUALITY = (40, 95)
SMALLEST_SCALE = 0.5
BLUR_SIGMA = (0.2, 1.2)


class MorphTransform:
    """Flip, RandAugment, and what a camera, a printer and a web form do to a picture: resize, blur and JPEG.

    It does not know the label, so both classes are changed alike; else a network would learn the changes.

    Args:
        num_ops: Changes of RandAugment per image, 0 for none.
        magnitude: Their strength, 0 to 30.
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9) -> None:
        self.rand_augment = v2.RandAugment(num_ops, magnitude, interpolation=InterpolationMode.BILINEAR)
        self.jpeg = v2.JPEG(JPEG_QUALITY)
        self.blur = v2.GaussianBlur(5, BLUR_SIGMA)

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image (3, H, W) uint8; its size stays."""
        if _chance(0.5):
            image = image.flip(-1)
        image = self.rand_augment(image)
        if _chance(0.3):
            image = _resize_and_back(image)
        if _chance(0.3):
            image = self.blur(image)
        if _chance(0.5):
            image = self.jpeg(image)
        return image


class PretrainingTransform:
    """Random crop of a fifth to all of the image, resized, and flip, as He et al. 2022 ("Masked autoencoders").

    Args:
        size: Height and width of what comes out.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC)

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image (3, H, W) uint8 to (3, *size)."""
        image = self.crop(image)
        return image.flip(-1) if _chance(0.5) else image


def _resize_and_back(image: Tensor) -> Tensor:
    size = list(image.shape[-2:])
    scale = SMALLEST_SCALE + (1 - SMALLEST_SCALE) * torch.rand(()).item()
    smaller = F.resize(image, [max(1, round(length * scale)) for length in size], antialias=True)
    return F.resize(smaller, size, antialias=True)


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)
