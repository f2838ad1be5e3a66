"""Data sets in Pascal VOC's format, with masks."""

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from datamodules.common.reading import read_pixels
from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.voc_files import BACKGROUND, LABEL_MAP, VOID, VocMasks, find_voc, read_voc
from datamodules.segmentation.image_mask_dataset import IndexMapDataset
from eomt.errors import UserError
from eomt.utils.labels import IGNORE_INDEX


class PascalVoc(ObjectDataModule):
    """Pascal VOC's segmentation, and what CVAT and others write in its format.

    `path` holds `JPEGImages`, `SegmentationClass`, most often `SegmentationObject`, and `ImageSets/Segmentation` with
    `train.txt`, `val.txt` and, maybe, `test.txt`; without these lists a seed splits. Classes are those of
    `labelmap.txt`, or else Pascal's 20, or `class_names`. Without `SegmentationObject`, what an image shows of a class
    is one object. Void pixels (255) belong to no object; as "semantic" they are ignored.

    Fields are those of `ObjectDataModule`.
    """

    def find_class_names(self) -> list[str]:
        """Return the names of `labelmap.txt`, or Pascal's."""
        return self._read[0]

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of each list, or of "all".

        Raises:
            UserError: Files are missing or cannot be read, or `class_names` are more or fewer than those of the files.
        """
        names, splits = self._read
        if len(self.object_names) != len(names):
            raise UserError(f"class_names: {len(self.object_names)} names, but {LABEL_MAP} has {len(names)} classes")
        return self.without_lone_split(splits)

    def map_dataset(self, images: Sequence[AnnotatedImage]) -> IndexMapDataset:
        """Return images with the classes of their pixels, of which those that are void are ignored."""
        return VocMapDataset(images, self.background)

    @cached_property
    def _read(self) -> tuple[list[str], dict[str, list[AnnotatedImage]]]:
        root = find_voc(self.path)
        if root is None:
            raise UserError(f"{self.path}: holds no JPEGImages and SegmentationClass; give a data set of Pascal VOC")
        return read_voc(root, self._class_names)


class VocMapDataset(IndexMapDataset):
    """Images with the classes of their masks.

    Args:
        images: With annotations of this format.
        background: Whether background is class 0, and class ids count from 1; else it is ignored.
    """

    def __init__(self, images: Sequence[AnnotatedImage], background: bool) -> None:
        super().__init__([image.name for image in images])
        self.images = images
        self.background = background

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        image = read_pixels(self.images[position].image)
        masks = cast(VocMasks, self.images[position].annotation)
        table = np.arange(VOID + 1, dtype=np.uint8)
        if not self.background:
            table[1:] -= 1
            table[BACKGROUND] = IGNORE_INDEX
        table[VOID] = IGNORE_INDEX
        return image, torch.from_numpy(table[masks.fitting_labels((image.shape[-2], image.shape[-1]))])
