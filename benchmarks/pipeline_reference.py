"""How the code of EoMT's authors makes training samples, in words of our own, to compare the pipeline with.

After github.com/tue-mps/eomt, `datasets/dataset.py` and `datasets/transforms.py`: Pillow decodes image and labels; one
boolean mask is made for each class that the image shows; then the colors of the whole image vary, and image and masks
are mirrored, resized, padded and cut together as tv_tensors; masks that the crop left empty are dropped. A batch is a
stack of images, and a list of masks and labels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.common.pairs import Pair

Change = Callable[[Tensor], Tensor]
# largest changes: of brightness, of contrast and saturation, and of hue in turns
BRIGHTNESS, CONTRAST, HUE = 32 / 255, 0.5, 18 / 360


class ReferenceTransform:
    """The random changes of EoMT's authors.

    Args:
        crop_size: Height and width of what comes out.
        scale_range: Relative to the scale at which the image fits into the crop.
        hue: Whether hue varies too, as it does there.
    """

    def __init__(self, crop_size: tuple[int, int], scale_range: tuple[float, float], hue: bool) -> None:
        self.crop_size = crop_size
        self.geometry = v2.Compose([v2.RandomHorizontalFlip(), v2.ScaleJitter(crop_size, scale_range)])
        self.crop = v2.RandomCrop(crop_size)
        half_of_the_time: Callable[[Change], Change] = lambda change: v2.RandomApply([change], p=0.5)  # noqa: E731
        self.brightness = half_of_the_time(v2.ColorJitter(brightness=BRIGHTNESS))
        self.contrast = half_of_the_time(v2.ColorJitter(contrast=CONTRAST))
        self.colors = [half_of_the_time(v2.ColorJitter(saturation=CONTRAST))]
        if hue:
            self.colors.append(half_of_the_time(v2.ColorJitter(hue=HUE)))

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Change an image (3, H, W) uint8, and the masks (N, H, W) bool and labels of its classes."""
        original = image, target
        order = [self.contrast, *self.colors] if torch.rand(()) < 0.5 else [*self.colors, self.contrast]
        for change in (self.brightness, *order):
            image = change(image)
        image, target = self.geometry(image, target)
        lacking = [max(0, wanted - length) for wanted, length in zip(self.crop_size, image.shape[-2:], strict=True)]
        padding = [0, 0, lacking[1], lacking[0]]
        image, target = self.crop(F.pad(image, padding), target | {"masks": F.pad(target["masks"], padding)})
        seen = target["masks"].flatten(1).any(1)
        # a crop of ignored pixels alone is drawn anew
        return (image, {key: value[seen] for key, value in target.items()}) if seen.any() else self(*original)


class ReferenceDataset(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images with a mask for each class they show.

    Args:
        pairs: The files.
        class_map: Class id of each raw label; 255 is ignored.
        transform: The random changes.
    """

    def __init__(self, pairs: Sequence[Pair], class_map: dict[int, int], transform: ReferenceTransform) -> None:
        self.pairs = pairs
        self.class_map = class_map
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        pair = self.pairs[index]
        assert isinstance(pair.image, Path)
        assert isinstance(pair.mask, Path)
        image = tv_tensors.Image(Image.open(pair.image).convert("RGB"))
        raw = tv_tensors.Mask(Image.open(pair.mask), dtype=torch.long)[0]
        shown = [label for label in raw.unique().tolist() if self.class_map.get(label, 255) != 255]
        target = {
            "masks": tv_tensors.Mask(torch.stack([raw == label for label in shown])),
            "labels": torch.tensor([self.class_map[label] for label in shown]),
        }
        return self.transform(image, target)


def collate_reference(samples: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Stack images, list targets."""
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]
