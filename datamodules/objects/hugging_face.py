"""Data sets of Hugging Face with columns of images and of masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.areas import check_areas
from datamodules.common.label_arrays import count_labels
from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_mask, read_pixels
from datamodules.common.threads import map_in_threads
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.table_files import (
    REMEDY,
    choose_columns,
    files_of_splits,
    find_tables,
    label_names,
    row_images,
    table_parts,
)
from datamodules.segmentation.image_mask_dataset import IndexMapDataset
from eomt.errors import UserError, listed
from eomt.utils.labels import IGNORE_INDEX

BACKGROUND, VOID = 0, 255


@dataclass(frozen=True)
class TableMask:
    """The mask in a row: label of each pixel, of which 0 is background, unless it is a class, and 255 is void."""

    pair: Pair
    num_classes: int
    zero_is_class: bool

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return an object for each class, see `ObjectAnnotation`."""
        labels = self.labels(size)
        first = 0 if self.zero_is_class else 1
        present = [label for label in count_labels(labels) if first <= label != VOID]
        return Objects.from_map(labels, {label: label - first for label in present})

    def labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the labels of an image of a size, (H, W), after a look at them.

        Raises:
            UserError: The mask is damaged, of another size, or has a label that is no class.
        """
        labels = read_mask(self.pair.mask, image=self.pair.image)
        check_same_size(self.pair, size, labels.shape)
        highest = self.num_classes - 1 if self.zero_is_class else self.num_classes
        unknown = (labels > highest) & (labels != VOID)
        if unknown.any():
            raise UserError(
                f"{self.pair.mask}: label {labels[unknown][0]} ({int(unknown.sum())} pixels); 0 to {highest} and 255 "
                "(void) are known, see class_names"
            )
        return labels


class HuggingFaceSegmentation(ObjectDataModule):
    """Images and masks in columns of a table: what `save_to_disk` of Hugging Face's datasets wrote, or Parquet files.

    `path` is such a folder, or one with Parquet files, whose names or folders say the split (`train-00000-of-00002`,
    `validation/...`), or a Parquet file. Without splits, a seed splits. A mask holds a label for each pixel: 0 is
    background, unless `zero_is_class`, and 255 void, which as "semantic" is ignored. What an image shows of a class is
    one object; `objects: component` makes one of each connected part. Names are those of an `id2label.json` beside
    the data, or `class_names`. It needs the extra `data`, and fetches nothing.

    Args:
        path: Folder of the data set, or a Parquet file.
        image_column: Name of the column of images; null finds it.
        mask_column: Name of the column of masks; null finds it.
        zero_is_class: Whether label 0 is the first class, and not background.
        **common: Fields of `ObjectDataModule`.
    """

    def __init__(
        self,
        path: Path,
        image_column: str | None = None,
        mask_column: str | None = None,
        zero_is_class: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(path, **common)
        self.image_column, self.mask_column, self.zero_is_class = image_column, mask_column, zero_is_class
        # every pixel is of a class then
        self.background = self.background and not zero_is_class

    def find_class_names(self) -> list[str]:
        """Return the names of an `id2label.json`, or a number for each label that occurs.

        Raises:
            UserError: Labels are not 1, 2, 3, ..., or masks look smooth.
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        first = 0 if self.zero_is_class else 1
        if (names := label_names(folder)) is not None:
            wanted = {label: name for label, name in names.items() if first <= label != VOID}
            if sorted(wanted) != list(range(first, len(wanted) + first)):
                raise UserError(f"{folder}: id2label.json names labels {listed(wanted)}; must count from {first}")
            return list(wanted.values())
        labels = {label for rows in self._rows.values() for _, found in rows for label in found} - {VOID}
        labels -= set() if self.zero_is_class else {BACKGROUND}
        masks = (read_mask(pair.mask) for rows in self._rows.values() for pair, _ in rows)
        check_areas(labels, masks, str(self.path), "store label ids, or give class_names if all are classes")
        if not labels or sorted(labels) != list(range(first, len(labels) + first)):
            or_class = "" if self.zero_is_class else ", or zero_is_class: true if 0 is one"
            raise UserError(
                f"{self.path}: masks hold labels {listed(sorted(labels))}; classes count from {first}: give "
                f"class_names if some are absent{or_class}"
            )
        return [f"class {label}" for label in sorted(labels)]

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of each split, or of "all".

        Raises:
            UserError: Files are missing or cannot be read.
        """
        count, first = len(self.object_names), 0 if self.zero_is_class else 1
        return {
            split: [
                AnnotatedImage(
                    pair.name,
                    pair.image,
                    frozenset(label - first for label in labels if first <= label < count + first),
                    TableMask(pair, count, self.zero_is_class),
                )
                for pair, labels in rows
            ]
            for split, rows in self._rows.items()
        }

    def map_dataset(self, images: Sequence[AnnotatedImage]) -> IndexMapDataset:
        """Return images with the classes of their pixels, of which those that are void are ignored."""
        return TableMapDataset(images, self.background)

    @cached_property
    def _rows(self) -> dict[str, list[tuple[Pair, list[int]]]]:
        """The rows of each split, with the labels that occur in their masks."""
        tables = find_tables(self.path)
        if tables is None:
            raise UserError(f"{self.path}: holds no table of images; {REMEDY}")
        found = {}
        for split, files in files_of_splits(tables, self.path).items():
            image, mask = choose_columns(files[0], self.image_column, self.mask_column)
            parts = [part for file in files for part in table_parts(file)]
            rows = zip(row_images(parts, image), row_images(parts, mask), strict=True)
            pairs = [Pair(f"{split}-{number:06d}", *row) for number, row in enumerate(rows)]
            labels = map_in_threads(lambda pair: list(count_labels(read_mask(pair.mask))), pairs, "Reading masks")
            found[split] = list(zip(pairs, labels, strict=True))
        return found


class TableMapDataset(IndexMapDataset):
    """Images with the classes of their masks.

    Args:
        images: With annotations of this format.
        background: Whether label 0 stays class 0; else, where it is no class, it is ignored.
    """

    def __init__(self, images: Sequence[AnnotatedImage], background: bool) -> None:
        super().__init__([image.name for image in images])
        self.images = images
        self.background = background

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        image = read_pixels(self.images[position].image)
        mask = self.images[position].annotation
        assert isinstance(mask, TableMask)
        labels = mask.labels((image.shape[-2], image.shape[-1])).astype(np.uint8)
        if not self.background and not mask.zero_is_class:
            # uint8: 0 becomes 255
            labels = np.where(labels == IGNORE_INDEX, labels, labels - 1).astype(np.uint8)
        return image, torch.from_numpy(labels)
