"""Samples of images with labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.classification.labels import LabeledImage
from datamodules.classification.transforms import ClassTransform, shown
from datamodules.common.kept import KeptSamples
from datamodules.common.random_changes import seeded, with_seed
from datamodules.common.reading import read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.common.zip_members import ImageFile


class Targets:
    """What a network learns of an image: the id of its class, int64 `()`; or of several a float for each, `(C,)`.

    Args:
        class_names: By class id.
        multi_label: Whether an image may have any number of them.
    """

    def __init__(self, class_names: Sequence[str], multi_label: bool) -> None:
        self.ids = {name: index for index, name in enumerate(class_names)}
        self.multi_label = multi_label

    def __call__(self, image: LabeledImage) -> Tensor:
        """Return the target of an image."""
        if not self.multi_label:
            return torch.tensor(self.ids[image.labels[0]])
        target = torch.zeros(len(self.ids))
        target[[self.ids[label] for label in image.labels]] = 1.0
        return target

    def blank(self) -> Tensor:
        """Return the target of a sample that completes a batch."""
        return torch.zeros(len(self.ids)) if self.multi_label else torch.tensor(0)


class LabeledImages(Dataset[dict[str, Any]]):
    """Images of one size with their targets: `image` (3, *size) uint8 RGB, `label`, `path` and `name`.

    In training an index comes with the seed of the sample's random changes. `PADDING_INDEX` gives the first image
    without a name.

    Args:
        images: The files.
        size: Height and width of the images.
        targets: Makes `label`.
        transform: Random changes for training; None shows the middle.
        keeps: Whether decoded images are kept, for they will be asked for again.
    """

    def __init__(
        self,
        images: Sequence[LabeledImage],
        size: tuple[int, int],
        targets: Targets,
        transform: ClassTransform | None = None,
        keeps: bool = False,
    ) -> None:
        self.images, self.size, self.targets, self.transform = images, size, targets, transform
        self.read = KeptSamples(self._decode) if keeps else self._decode

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        position, seed = with_seed(index)
        labeled = self.images[max(position, 0)]
        (image,) = self.read(max(position, 0))
        if self.transform is not None:
            image = seeded(self.transform, image, seed)
        real = position != PADDING_INDEX
        label = self.targets(labeled) if real else self.targets.blank()
        return {"image": image, "label": label, "path": str(labeled.file), "name": labeled.name if real else ""}

    def _decode(self, position: int) -> tuple[Tensor]:
        image = read_pixels(self.images[position].file)
        return (image if self.transform is not None else shown(image, self.size),)


class UnlabeledImages(Dataset[dict[str, Any]]):
    """Images of one size alone: `image` (3, *size) uint8 RGB, `path` and `name`.

    Args:
        files: By name.
        size: Height and width of the images.
    """

    def __init__(self, files: Mapping[str, ImageFile], size: tuple[int, int]) -> None:
        self.files, self.size = list(files.items()), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, file = self.files[index]
        return {"image": shown(read_pixels(file), self.size), "path": str(file), "name": name}


def blank_image(size: tuple[int, int], channels: int) -> dict[str, Any]:
    """Return a sample without a name, as `UnlabeledImages` gives them."""
    return {"image": torch.zeros(channels, *size, dtype=torch.uint8), "path": "", "name": ""}
