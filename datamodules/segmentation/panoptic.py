"""COCO panoptic as semantic segmentation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_pixels
from datamodules.common.splits import SPLITS
from datamodules.segmentation.data_module import SegmentationDataModule
from datamodules.segmentation.image_mask_dataset import ImageMaskDataset
from datamodules.segmentation.labels import LabelTable
from datamodules.segmentation.panoptic_files import (
    PanopticSplit,
    read_class_ids,
    read_panoptic_categories,
    read_panoptic_split,
)
from eomt.errors import UserError


class PanopticDataset(ImageMaskDataset):
    """Images with the classes of their segments; samples are those of `ImageMaskDataset`.

    Args:
        split: The files.
        table: Class ids as they are, for the base class.
    """

    def __init__(self, split: PanopticSplit, table: LabelTable) -> None:
        super().__init__(split.pairs, table, None)
        self.split = split

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        pair = self.pairs[position]
        image = read_pixels(pair.image)
        ids = torch.from_numpy(read_class_ids(pair, self.split.segments[position], self.split.source))
        check_same_size(pair, tuple(image.shape[-2:]), tuple(ids.shape))
        return image, ids


class CocoPanoptic(SegmentationDataModule):
    """COCO panoptic, or other data in its format, as semantic segmentation: things lose their identity.

    `path` holds `train2017`, `val2017` (images) and `annotations` with panoptic_train2017.json, panoptic_val2017.json
    and the PNG files in folders of the same names. Another year or name after "train" and "val" will do. The validation
    images are the official ones; there is no test split with public annotations.

    A class id is the rank of its category id among those of the JSON file, for COCO's 133 as in
    `datamodules.class_maps`: 80 things, then 53 kinds of stuff. Pixels of no segment are ignored. Which classes an
    image shows is taken from the JSON file, so that no image is opened before training.

    Batches are those of `SegmentationDataModule`.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        **common: Fields of `SegmentationDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self, path: Path, batch_size: int = 4, crop_size: tuple[int, int] | None = None, **common: Any
    ) -> None:
        super().__init__(path, batch_size, crop_size, **common)
        self._class_names: list[str] | None = None
        self._panoptic: dict[str, PanopticSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names of the categories, by class id; read from the validation file, which is the small one."""
        if self._class_names is None:
            self._class_names = list(read_panoptic_categories(self._source("val")).values())
        return list(self._class_names)

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train" and "val".

        Raises:
            UserError: Files are missing or not in COCO's panoptic format, or those of the splits do not fit together.
        """
        return {split: self._pairs_of(split) for split in SPLITS}

    def _split(self, split: str) -> PanopticSplit:
        if split not in self._panoptic:
            found = read_panoptic_split(self._source(split))
            if list(found.names.values()) != self.class_names:
                raise UserError(f"{found.source}: other categories than {self._source('val')}; they must be the same")
            pairs = [replace(pair, image=self.converted(pair.image)) for pair in found.pairs]
            self._panoptic[split] = replace(found, pairs=pairs)
        return self._panoptic[split]

    def _source(self, split: str) -> Path:
        folder = self.path / "annotations"
        sources = sorted(folder.glob(f"panoptic_{split}*.json"))
        if len(sources) != 1:
            raise UserError(f"{folder}: {len(sources)} files panoptic_{split}*.json; there must be one")
        return sources[0]

    def _pairs_of(self, split: str) -> list[Pair]:
        # not the base's, which would read the large training file for validation too
        return self._split(split).pairs if split != "test" else []

    def _scan(self, split: str) -> list[dict[int, int]]:
        return self._split(split).pixels

    def label_table(self) -> LabelTable:
        """Return class ids as they are: `read_class_ids` has mapped the segments."""
        return LabelTable(self.num_classes, None, [])

    def _masked_dataset(self, split: str) -> ImageMaskDataset:
        return PanopticDataset(self._split(split), self.label_table())
