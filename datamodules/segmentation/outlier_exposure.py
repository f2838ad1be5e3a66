"""Unknown objects pasted into training images, so that a network learns to call them unknown (outlier exposure)."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datamodules.common.areas import FEW, check_areas
from datamodules.common.pairs import Pair, find_image_files, find_pairs
from datamodules.common.reading import check_image, has_transparency, read_image_with_opacity, read_mask, read_pixels
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.scanning import scan_pairs
from eomt.errors import UserError
from eomt.utils.images import RGB
from eomt.utils.labels import IGNORE_INDEX

# longer side of a pasted object, as a share of the shorter side of what it is pasted into
SMALLEST, LARGEST = 0.1, 0.5
BACKGROUND = 0
TRANSPARENT_EXTENSIONS = (".png", ".webp")


@dataclass(frozen=True)
class Cutout:
    """An image of an object, and where the object is: in its mask, or, without one, where it is not transparent.

    Args:
        image: The file.
        mask: File of its mask.
        others: Labels in the mask that are not the object.
    """

    image: ImageFile
    mask: ImageFile | None = None
    others: tuple[int, ...] = (BACKGROUND, IGNORE_INDEX)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return colors (3, h, w) and opacity (1, h, w), float32 from 0 to 1, cut to the object.

        Raises:
            UserError: A file is damaged, no pixel belongs to the object, or image and mask differ in size.
        """
        if self.mask is None:
            pixels = F.pil_to_tensor(read_image_with_opacity(self.image)).float() / 255
            colors, opacity = pixels[:3], pixels[3:]
        else:
            colors = read_pixels(self.image).float() / 255
            labels = read_mask(self.mask, image=self.image)
            opacity = torch.from_numpy(~np.isin(labels, self.others)).float()[None]
        if colors.shape[1:] != opacity.shape[1:]:
            raise UserError(f"{self.mask}: not the size of {self.image}; make them the same size")
        rows, columns = ((opacity[0] >= 0.5).any(axis).nonzero().flatten() for axis in (1, 0))
        if not len(rows):
            ignored = f" ({' and '.join(map(str, self.others))} do not count)" if self.mask is not None else ""
            raise UserError(f"{self.mask or self.image}: no pixel belongs to an object{ignored}; remove the file")
        box = (slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return colors[box], opacity[box]


def read_cutouts(folder: Path) -> list[Cutout]:
    """Find the objects of a folder: transparent images, or `images` and `masks` whose labels above 0 are the object.

    255 is ignored, unless all masks are black and white: then it is the object.

    Raises:
        UserError: There are none, or a file cannot be used.
    """
    if (folder / "images").is_dir():
        return _masked_cutouts(find_pairs(folder / "images", folder / "masks", None, None))
    files = [folder / name for name in find_image_files(folder, TRANSPARENT_EXTENSIONS)]
    if not files:
        raise UserError(
            f"outliers: {folder} holds neither transparent images ({', '.join(TRANSPARENT_EXTENSIONS)}) "
            "nor the folders 'images' and 'masks'; put one of them there"
        )
    map_in_threads(_check_transparency, files, "Checking outliers")
    return [Cutout(file) for file in files]


def _masked_cutouts(pairs: list[Pair]) -> list[Cutout]:
    labels = {label for pixels in scan_pairs(pairs, None, "Checking outliers") for label in pixels} - {BACKGROUND}
    if labels == {IGNORE_INDEX}:
        return [Cutout(pair.image, pair.mask, (BACKGROUND,)) for pair in pairs]
    masks = (read_mask(pair.mask, image=pair.image) for pair in pairs)
    # where white is ignored, a few grays around it are enough for a doubt
    few = 1 if IGNORE_INDEX in labels else FEW
    check_areas(labels - {IGNORE_INDEX}, masks, "outliers", "store 0 and 1, or just black and white", few)
    return [Cutout(pair.image, pair.mask) for pair in pairs]


def _check_transparency(file: Path) -> None:
    check_image(file)
    if not has_transparency(file):
        raise UserError(f"{file}: an outlier without transparency; cut the object out, or add masks for all images")


class OutlierPaste:
    """Pastes an object into some images, at a random place and scale, mirrored at random.

    Args:
        folder: Holds the objects, see `read_cutouts`.
        probability: Share of images that get one.
        channels: Number of channels of the images.

    Raises:
        UserError: The folder holds no objects that can be used, or images are no RGB.
    """

    def __init__(self, folder: Path, probability: float, channels: int = RGB) -> None:
        if channels != RGB:
            raise UserError(
                f"outliers: {folder} holds RGB, and channels makes {channels} of each image; leave outliers out, or "
                "give three channels"
            )
        self.cutouts = read_cutouts(folder)
        self.probability = probability

    def __call__(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Draw with torch's generator whether, what and where to paste.

        Args:
            image: (3, H, W) uint8.
            mask: (H, W) class ids.

        Returns:
            `image` and `mask` like the arguments, the mask 255 under the object; `outlier` (H, W) bool, true there.
        """
        outlier = torch.zeros_like(mask, dtype=torch.bool)
        if torch.rand(()) >= self.probability:
            return {"image": image, "mask": mask, "outlier": outlier}
        colors, opacity = self.cutouts[int(torch.randint(len(self.cutouts), ()))].read()
        if torch.rand(()) < 0.5:
            colors, opacity = colors.flip(-1), opacity.flip(-1)
        colors, opacity = _resize(colors, opacity, _random_length(mask.shape))
        height, width = opacity.shape[1:]
        top, left = (
            int(torch.randint(total - part + 1, ())) for total, part in zip(mask.shape, (height, width), strict=True)
        )
        area = (slice(top, top + height), slice(left, left + width))
        outlier[area] = opacity[0] >= 0.5
        pasted = image.clone()
        # the colors are weighted with the opacity already
        pasted[:, *area] = (image[:, *area] * (1 - opacity) + colors * 255).round().clamp(0, 255).to(torch.uint8)
        return {"image": pasted, "mask": mask.masked_fill(outlier, IGNORE_INDEX), "outlier": outlier}


def _random_length(size: torch.Size) -> int:
    share = SMALLEST * math.exp(torch.rand(()).item() * math.log(LARGEST / SMALLEST))
    return max(1, round(share * min(size)))


def _resize(colors: Tensor, opacity: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Resize an object to a longer side of `length`; the colors that come out are weighted with the opacity.

    Without the weights the hidden colors of transparent pixels would seep into the edge.
    """
    scale = length / max(opacity.shape)
    size = [max(1, round(side * scale)) for side in opacity.shape[1:]]
    resized = F.resize(torch.cat([colors * opacity, opacity]), size, antialias=True).clamp(0, 1)
    return resized[:3], resized[3:]
