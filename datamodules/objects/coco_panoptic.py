"""COCO panoptic."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_pixels
from datamodules.common.splits import SPLITS
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.coco_layouts import split_of
from datamodules.objects.data_module import ObjectDataModule, Target
from datamodules.segmentation.image_mask_dataset import IndexMapDataset
from datamodules.segmentation.panoptic_files import (
    read_class_ids,
    read_panoptic_categories,
    read_panoptic_split,
    read_segment_ids,
)
from eomt.errors import UserError


@dataclass(frozen=True, eq=False)
class PanopticAnnotation:
    """The segments of an image.

    Attributes:
        pair: Its files.
        segments: (N, 2) int64, ids of segments and their class ids in the JSON file, sorted.
        class_of: Class id of each segment that is an object.
        crowds: Ids of the segments that are crowds.
        source: The JSON file, for messages.
    """

    pair: Pair
    segments: np.ndarray
    class_of: dict[int, int]
    crowds: frozenset[int]
    source: Path

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return the segments as objects, see `ObjectAnnotation`."""
        ids = read_segment_ids(self.pair, self.segments, self.source)
        check_same_size(self.pair, size, ids.shape)
        return Objects.from_map(ids, self.class_of, self.crowds)


class PanopticDataset(IndexMapDataset):
    """Images with the classes of their segments.

    Args:
        annotations: Of the images.
    """

    def __init__(self, annotations: Sequence[PanopticAnnotation]) -> None:
        super().__init__([annotation.pair.name for annotation in annotations])
        self.annotations = annotations

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        annotation = self.annotations[position]
        image = read_pixels(annotation.pair.image)
        ids = torch.from_numpy(read_class_ids(annotation.pair, annotation.segments, annotation.source))
        check_same_size(annotation.pair, tuple(image.shape[-2:]), tuple(ids.shape))
        return image, ids


class CocoPanoptic(ObjectDataModule):
    """COCO panoptic, or other data in its format: maps of classes, things, or things and stuff.

    `path` holds `train2017`, `val2017` (images) and `annotations` with panoptic_train2017.json, panoptic_val2017.json
    and the PNG files in folders of the same names. Another year or name after "train" and "val" will do. The validation
    images are the official ones; there is no test split with public annotations.

    A class id is the rank of its category id among those of the JSON file, for COCO's 133 as in
    `datamodules.class_maps`: 80 things, then 53 kinds of stuff, of which `isthing` tells; of target "instance" it is
    the rank among the things alone. Pixels of no segment are ignored by "semantic", and unknown to "panoptic". Which
    classes an image shows is taken from the JSON file, so that no image is opened before training. Batches are those of
    `ObjectDataModule`.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        stuff_classes: Class ids of stuff; null for what the JSON file says. A null `target` is "semantic".
        **common: Fields of `ObjectDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    default_target: ClassVar[Target] = "semantic"

    def __init__(
        self,
        path: Path,
        batch_size: int = 4,
        crop_size: int | tuple[int, int] | None = None,
        stuff_classes: list[int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, batch_size, crop_size, background=False, **common)
        self._stuff_classes = stuff_classes
        self._images: dict[str, list[AnnotatedImage]] = {}

    @property
    def is_split_by_seed(self) -> bool:
        """False: each split has a file."""
        return False

    @property
    def stuff_classes(self) -> list[int]:
        """Class ids of stuff, by the validation file, which is the small one; none of "instance"."""
        if self._stuff_classes is None:
            self._stuff_classes = [] if self.target == "instance" else self._categories[1]
        return list(self._stuff_classes)

    def found_arguments(self) -> dict[str, Any]:
        """Return the names of the classes, and which of them are stuff."""
        return super().found_arguments() | {"stuff_classes": self.stuff_classes}

    def find_class_names(self) -> list[str]:
        """Return the names of the categories, read from the validation file."""
        names, stuff = self._categories
        return [name for place, name in enumerate(names) if self.target != "instance" or place not in stuff]

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of "train" and "val".

        Raises:
            UserError: Files are missing or not in COCO's panoptic format, or those of the splits do not fit together.
        """
        return {split: self.images_of(split) for split in SPLITS}

    def images_of(self, split: str) -> list[AnnotatedImage]:
        """Return the images of a split, and read its file alone: that of training is large."""
        if split == "test":
            return []
        if split not in self._images:
            self._images[split] = [
                AnnotatedImage(found.pair.name, found.pair.image, frozenset(found.class_of.values()), found)
                for found in self._annotations(split)
            ]
        return self._images[split]

    def look_at(self, image: AnnotatedImage) -> np.ndarray:
        """Return the class ids of an image's segments, (N,) int64, as the JSON file says."""
        annotation = image.annotation
        assert isinstance(annotation, PanopticAnnotation)
        return np.array([*annotation.class_of.values()], dtype=np.int64)

    def map_dataset(self, images: Sequence[AnnotatedImage]) -> IndexMapDataset:
        """Return images with the classes of their segments, which a table gives at once."""
        return PanopticDataset(
            [image.annotation for image in images if isinstance(image.annotation, PanopticAnnotation)]
        )

    def _annotations(self, split: str) -> list[PanopticAnnotation]:
        found = read_panoptic_split(self._source(split))
        names = list(found.names.values())
        ranks = {place: place for place in range(len(names))}
        if self.target == "instance":
            things = [place for place in range(len(names)) if place not in found.stuff]
            names, ranks = [names[place] for place in things], {place: rank for rank, place in enumerate(things)}
        if names != self.object_names:
            other = self._source("val") if split != "val" else "class_names"
            raise UserError(f"{found.source}: other categories than {other}; they must be the same")
        return [
            PanopticAnnotation(
                replace(pair, image=self.converted(pair.image)),
                segments,
                {segment: ranks[place] for segment, place in segments.tolist() if place in ranks},
                crowds,
                found.source,
            )
            for pair, segments, crowds in zip(found.pairs, found.segments, found.crowds, strict=True)
        ]

    @cached_property
    def _categories(self) -> tuple[list[str], list[int]]:
        return read_panoptic_categories(self._source("val"))

    def _source(self, split: str) -> Path:
        folder = self.path / "annotations"
        sources = [file for file in sorted(folder.glob("panoptic_*.json")) if split_of(file) == split]
        if len(sources) != 1:
            raise UserError(f"{folder}: {len(sources)} files panoptic_*.json of the {split} split; there must be one")
        return sources[0]
