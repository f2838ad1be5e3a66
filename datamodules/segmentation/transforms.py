"""Random changes of training images, the same for an image and its masks: one rule says which pixels a crop shows."""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.common.color_jitter import jittered
from datamodules.segmentation.outlier_exposure import OutlierPaste
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import OUTSIDE, PackedMasks, resized_lines

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
        """Transform an image (C, H, W) uint8 and its class ids (H, W) uint8 to the crop size.

        Args:
            image: The image.
            mask: Its class ids.
            outliers: What is pasted in before the colors vary: in other light than its surroundings it would be known
                by that.

        Returns:
            `image` and `mask` of the crop size and, with `outliers`, `outlier` (H, W) bool.
        """
        image, rows, columns = self._cut(image)
        # numpy takes lines of bytes in a fifth of torch's time
        sample = {"image": image, "mask": torch.from_numpy(mask.numpy()[rows.numpy()][:, columns.numpy()])}
        if outliers is not None:
            sample = outliers(**sample)
        if self.color_jitter is not None:
            sample["image"] = jittered(self.color_jitter, sample["image"])
        margins = self._margins(sample["image"])
        return {name: _padded(value, margins, FILL[name]) for name, value in sample.items()}

    def of_objects(self, image: Tensor, masks: PackedMasks) -> tuple[Tensor, PackedMasks, Tensor]:
        """Transform an image (C, H, W) uint8 and the masks of its objects to the crop size, as an image and its map.

        Returns:
            The image; the M masks of which the crop shows a pixel; and their positions, (M,) int64.
        """
        image, rows, columns = self._cut(image)
        if self.color_jitter is not None:
            image = jittered(self.color_jitter, image)
        left, right, top, bottom = margins = self._margins(image)
        rows, columns = pad(rows, (top, bottom), value=OUTSIDE), pad(columns, (left, right), value=OUTSIDE)
        seen = masks.shown(rows, columns)
        positions = seen.rectangles[:, 2].nonzero()[:, 0]
        return _padded(image, margins, FILL["image"]), seen.where(positions), positions

    def _cut(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut out what a crop of the scaled image would show, at most `crop_size` large, and mirror it or not.

        Returns:
            What is shown of the image, (C, h, w); and the image's rows and columns that stand there, (h,) and (w,).
        """
        size = (image.shape[-2], image.shape[-1])
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
        image = F.resize(image[:, top : top + window[0], left : left + window[1]], resized, antialias=True)
        rows, columns = (
            first + resized_lines(seen, shown) for first, seen, shown in zip((top, left), window, resized, strict=True)
        )
        if self.flip and torch.rand(()) < 0.5:
            image, columns = image.flip(-1), columns.flip(0)
        return image, rows, columns

    def _margins(self, image: Tensor) -> tuple[int, int, int, int]:
        """Choose a random place in the crop for what is smaller; return what is left, right, above and below."""
        height, width = image.shape[-2:]
        top = _random_offset(self.crop_size[0] - height)
        left = _random_offset(self.crop_size[1] - width)
        return left, self.crop_size[1] - width - left, top, self.crop_size[0] - height - top


def _padded(value: Tensor, margins: tuple[int, int, int, int], fill: float) -> Tensor:
    return pad(value, margins, value=fill) if any(margins) else value


def _random_offset(largest: int) -> int:
    return int(torch.randint(largest + 1, ()).item())
