"""Random changes of training images, the same for an image and its mask."""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from datamodules.segmentation.outlier_exposure import OutlierPaste
from eomt.utils.labels import IGNORE_INDEX

# what stands around a sample that is smaller than the crop
FILL = {"image": 0, "mask": IGNORE_INDEX, "outlier": False}


class TrainTransform:
    """Scale jitter, random crop with padding, horizontal flip and photometric distortion.

    Only the part of the image that the crop shows is resized.

    Args:
        crop_size: Height and width of what comes out.
        scale_range: Smallest and largest scale; at 1 the whole image just fits into the crop, as in the code of EoMT's
            authors and in torchvision's ScaleJitter. None lets each image just cover the crop, as windows do in
            evaluation.
        flip: Whether to flip half of the images.
        color_jitter: Whether to vary brightness, contrast and saturation.
    """

    def __init__(
        self, crop_size: tuple[int, int], scale_range: tuple[float, float] | None, flip: bool, color_jitter: bool
    ) -> None:
        self.crop_size = crop_size
        self.scale_range = scale_range
        self.flip = flip
        # no hue: by way of floating-point HSV it would take four times as long as all the rest
        self.color_jitter = v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5) if color_jitter else None

    def __call__(self, image: Tensor, mask: Tensor, outliers: OutlierPaste | None = None) -> dict[str, Tensor]:
        """Transform an image (3, H, W) uint8 and its class ids (H, W) uint8 to the crop size.

        Args:
            image: The image.
            mask: Its class ids.
            outliers: What is pasted in before the colors vary: in other light than its surroundings it would be known
                by that.

        Returns:
            `image` and `mask` of the crop size and, with `outliers`, `outlier` (H, W) bool.
        """
        image, mask = self._crop_and_resize(image, mask)
        if self.flip and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        sample = {"image": image, "mask": mask}
        if outliers is not None:
            sample = outliers(**sample)
        if self.color_jitter is not None:
            sample["image"] = self.color_jitter(sample["image"])
        return self._pad(sample)

    def _crop_and_resize(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Cut out what a crop of the scaled image would show, at most `crop_size` large."""
        size = mask.shape
        scales = [wanted / length for wanted, length in zip(self.crop_size, size, strict=True)]
        if self.scale_range is None:
            scale = max(scales)
        else:
            low, high = self.scale_range
            scale = min(scales) * (low + (high - low) * torch.rand(()).item())
        window = [min(n, max(1, round(wanted / scale))) for wanted, n in zip(self.crop_size, size, strict=True)]
        resized = [
            # a window smaller than the image was cut by the crop, and fills it
            wanted if seen < length else min(wanted, max(1, round(length * scale)))
            for wanted, seen, length in zip(self.crop_size, window, size, strict=True)
        ]
        top, left = (_random_offset(length - seen) for length, seen in zip(size, window, strict=True))
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        image = F.resize(image[:, rows, columns], resized, antialias=True)
        # nearest-exact keeps to the pixel centers, as the image's resize does; nearest would be half a pixel off
        mask = F.resize(mask[None, rows, columns], resized, InterpolationMode.NEAREST_EXACT)[0]
        return image, mask

    def _pad(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Lay what is smaller than the crop at a random place, with black and ignored pixels around it."""
        height, width = sample["mask"].shape
        if (height, width) == tuple(self.crop_size):
            return sample
        top = _random_offset(self.crop_size[0] - height)
        left = _random_offset(self.crop_size[1] - width)
        padding = (left, self.crop_size[1] - width - left, top, self.crop_size[0] - height - top)
        return {name: pad(value, padding, value=FILL[name]) for name, value in sample.items()}


def _random_offset(largest: int) -> int:
    return int(torch.randint(largest + 1, ()).item())
