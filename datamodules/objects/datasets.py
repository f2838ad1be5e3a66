"""Samples of images with objects: maps of classes, or a mask for each object."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.kept import KeptSamples
from datamodules.common.reading import orientation_of, read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.objects.annotation import AnnotatedImage, Objects, group_objects
from datamodules.segmentation.image_mask_dataset import IndexMapDataset
from datamodules.segmentation.transforms import TrainTransform
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import PackedMasks

Choose = Callable[[Objects], Objects]


def read_annotated(sample: AnnotatedImage) -> tuple[Tensor, Objects]:
    """Return an image (3, H, W) uint8, and its objects as they are annotated.

    Raises:
        UserError: A file is damaged, or the annotation does not fit the image.
    """
    image = read_pixels(sample.image)
    return image, sample.annotation.objects((image.shape[-2], image.shape[-1]), orientation_of(sample.image))


def on_top(objects: Objects) -> np.ndarray:
    """Return the number of the object that is on top of each pixel, (H, W) int32; smaller ones lie on top, 0 is none.

    Numbers count from 1. Of objects of one size the later one lies on top.
    """
    numbers = np.zeros(objects.size, dtype=np.int32)
    for index in np.argsort(-objects.areas, kind="stable").tolist():
        part = objects.cropped[index]
        numbers[part.window][part.pixels] = index + 1
    return numbers


def class_map(objects: Objects, background: bool) -> np.ndarray:
    """Return the class of the object on top of each pixel, (H, W) uint8.

    Args:
        objects: What is painted, crowds too.
        background: Whether pixels of no object are class 0, and class ids count from 1; else they are ignored.
    """
    empty, first = (0, 1) if background else (IGNORE_INDEX, 0)
    return np.concatenate([[empty], objects.class_ids + first]).astype(np.uint8)[on_top(objects)]


def segments_of(objects: Objects, stuff_classes: Collection[int]) -> Objects:
    """Return segments that do not overlap: each thing, and for each kind of stuff one of all that it covers.

    Smaller ones lie on top; what is covered as a whole is gone.
    """
    is_stuff = np.isin(objects.class_ids, np.array([*stuff_classes], dtype=np.int64))
    things, stuff = objects.where(~is_stuff), group_objects(objects.where(is_stuff), "class")
    segments = Objects.from_cropped(
        objects.size,
        [*things.cropped, *stuff.cropped],
        np.concatenate([things.class_ids, stuff.class_ids]),
        np.concatenate([things.is_crowd, stuff.is_crowd]),
    )
    crowds = (np.flatnonzero(segments.is_crowd) + 1).tolist()
    return Objects.from_map(on_top(segments), dict(enumerate(segments.class_ids.tolist(), start=1)), crowds)


class ObjectMapDataset(IndexMapDataset):
    """Images with the classes of their objects, see `class_map`.

    Args:
        images: The images.
        background: See `class_map`.
    """

    def __init__(self, images: Sequence[AnnotatedImage], background: bool) -> None:
        super().__init__([image.name for image in images])
        self.images = images
        self.background = background

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        image, objects = read_annotated(self.images[position])
        return image, torch.from_numpy(class_map(objects, self.background))


class ObjectDataset(Dataset[dict[str, Any]]):
    """Images with their objects, at the size of the file.

    A sample holds `image` (3, H, W) uint8 RGB, `masks` (N `PackedMasks`), `labels` (N,) int64, `is_crowd` (N,) bool,
    `areas` (N,) float64, see `Objects.stated_areas`, and `name`. `PADDING_INDEX` gives the first image without objects
    and name.

    Args:
        images: The images.
        choose: Returns the objects that are wanted of those that are annotated.
    """

    def __init__(self, images: Sequence[AnnotatedImage], choose: Choose) -> None:
        self.images = images
        self.choose = choose

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, annotated = read_annotated(self.images[max(index, 0)])
        objects = self.choose(annotated)
        is_padding = index == PADDING_INDEX
        if is_padding:
            objects = objects.where(np.zeros(len(objects), dtype=bool))
        return {
            "image": image,
            "masks": PackedMasks.pack(objects.cropped, objects.size),
            "labels": torch.from_numpy(objects.class_ids),
            "is_crowd": torch.from_numpy(objects.is_crowd),
            "areas": torch.from_numpy(objects.stated_areas),
            "name": "" if is_padding else self.images[index].name,
        }


class AugmentedObjectDataset(Dataset[dict[str, Any]]):
    """Randomly changed images with their objects, for training, decoded once each, see `KeptSamples`.

    An index comes with the seed of the changes. A sample holds `image`, `masks`, `labels` and `name`, as those of
    `ObjectDataset`, at the size of the crop; crowds, and objects of which it shows no pixel, are left out.

    Args:
        images: The images.
        choose: Returns the objects that are wanted of those that are annotated.
        transform: The random changes.
    """

    def __init__(self, images: Sequence[AnnotatedImage], choose: Choose, transform: TrainTransform) -> None:
        self.images = images
        self.choose = choose
        self.transform = transform
        self.read = KeptSamples(self._decode)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        # Lightning's overfit_batches takes the sampler away, and with it the seeds
        position, seed = index if isinstance(index, tuple) else (index, index)
        image, bits, rectangles, labels = self.read(position)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPU's generator too, which belongs to the network
            torch.default_generator.manual_seed(seed)
            size = (image.shape[-2], image.shape[-1])
            image, masks, shown = self.transform.of_objects(image, PackedMasks(bits, rectangles, size))
        return {"image": image, "masks": masks, "labels": labels[shown], "name": self.images[position].name}

    def _decode(self, position: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        image, annotated = read_annotated(self.images[position])
        objects = self.choose(annotated)
        objects = objects.where(~objects.is_crowd)
        masks = PackedMasks.pack(objects.cropped, objects.size)
        return image, masks.bits, masks.rectangles, torch.from_numpy(objects.class_ids)


def collate_objects(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack the images of samples where they have one size, list all the rest."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    one_size = len({image.shape for image in batch["image"]}) == 1
    return batch | ({"image": torch.stack(batch["image"])} if one_size else {})
