"""Folders of images and masks."""

import logging
from pathlib import Path
from typing import Any

from datamodules.class_maps import CLASS_MAPS, NamedClassMap
from datamodules.common.areas import check_areas, refuse_smooth
from datamodules.common.checks import check_fractions
from datamodules.common.pairs import Pair, find_pairs, find_split_folders
from datamodules.common.reading import read_mask
from datamodules.common.splits import SEEDED, SPLITS, read_split_record, seeded_split, split_folders
from datamodules.segmentation.data_module import SegmentationDataModule
from datamodules.segmentation.labels import LabelTable, declared_num_classes, infer_num_classes, threshold_map
from eomt.errors import UserError, listed
from eomt.utils.paths import expand

log = logging.getLogger("eomt")


class ImageMaskFolder(SegmentationDataModule):
    """Images and their segmentation masks in folders.

    `path` holds `train`, `val` and optionally `test`, each with `images` and `masks`; or `images` and `masks` hold
    these in their turn (ADE20K's `images` and `annotations` with `training` and `validation`); or there are just
    `images` and `masks`, which are split by a seed.

    Batches are those of `SegmentationDataModule`.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        image_suffix: How the images' names end, e.g. "_leftImg8bit.png"; null for any common extension.
        mask_suffix: What stands in a mask's name instead, e.g. "_gtFine_labelIds.png"; null for ".png".
        class_names: Names of the classes, by class id.
        class_map: Class id of each raw label in the masks (255 = ignored), or the name of a map in
            `datamodules.class_maps`, which brings its class names; null where they are class ids already.
        ignore_labels: Raw labels that do not count.
        mask_threshold: Makes two classes of gray masks, as of an object with smooth edges: class 1 from this value on,
            class 0 below it. It replaces class_map and ignore_labels.
        class_colors: For color masks, RGB of the raw labels 0, 1, 2, ...
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        **common: Fields of `SegmentationDataModule`.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        path: Path,
        batch_size: int = 4,
        crop_size: tuple[int, int] | None = None,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        class_names: list[str] | None = None,
        class_map: dict[int, int] | NamedClassMap | None = None,
        ignore_labels: list[int] = [255],  # noqa: B006 (the command line shows the default; it is copied below)
        mask_threshold: int | None = None,
        class_colors: list[tuple[int, int, int]] | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        splits: Path | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, batch_size, crop_size, **common)
        check_fractions(val_fraction, test_fraction)
        if isinstance(class_map, str):
            class_map, names = CLASS_MAPS[class_map]
            class_names = class_names or names
        if mask_threshold is not None:
            class_map, ignore_labels = threshold_map(mask_threshold, class_map, class_colors), []
        self.mask_threshold = mask_threshold
        self.image_suffix = image_suffix
        self.mask_suffix = mask_suffix
        self.class_map = class_map
        self.ignore_labels = list(ignore_labels)
        self.class_colors = [(red, green, blue) for red, green, blue in class_colors] if class_colors else None
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.splits = expand(splits)
        self._class_names = class_names
        self._num_classes = declared_num_classes(class_names, class_map, self.ignore_labels, self.class_colors)

    @property
    def num_classes(self) -> int:
        """Number of classes; where no field states it, the training masks are read once to find it.

        Raises:
            UserError: The training masks' labels are not 0, 1, 2, ... without a gap.
        """
        if self._num_classes is None:
            labels = {label for histogram in self._scan("train") for label in histogram}
            classes = labels - set(self.ignore_labels)
            masks = (read_mask(pair.mask, self.class_colors) for pair in self._pairs_of("train"))
            remedy = "store label ids, or give mask_threshold: 128 for two classes, or class_names if all are classes"
            check_areas(classes, masks, "path", remedy)
            if classes != set(range(len(classes))):
                again = (read_mask(pair.mask, self.class_colors) for pair in self._pairs_of("train"))
                refuse_smooth(again, "path", remedy)
            self._num_classes = infer_num_classes(labels, self.ignore_labels)
        return self._num_classes

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""
        return self._class_names or [f"class {class_id}" for class_id in range(self.num_classes)]

    @property
    def _split_folders(self) -> dict[str, tuple[Path, Path]] | None:
        folders = find_split_folders(self.path)
        # a record tells which images of folders that are named like splits are in which
        is_recorded = self.splits is not None and not (self.path / "train").is_dir()
        return None if is_recorded else folders

    @property
    def is_split_by_seed(self) -> bool:
        """True where the split is made here, and not by folders."""
        return self._split_folders is None

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train", "val" and "test" (empty where there is none).

        Raises:
            UserError: Folders or partners of files are missing, or the recorded split does not fit the files.
        """
        if not self.path.is_dir():
            raise UserError(f"path: {self.path} is not a folder; give the data set's folder")
        if self._split_folders is not None:
            return self._given_splits(self._split_folders)
        if not (self.path / "images").is_dir():
            raise UserError(f"path: {self.path} holds neither 'train' nor 'images'; see ImageMaskFolder for the layout")
        pairs = find_pairs(self.path / "images", self.path / "masks", self.image_suffix, self.mask_suffix)
        names = [pair.name for pair in pairs]
        if self.splits is None:
            if named := split_folders(self.path / "images"):
                log.warning(
                    "%s: a seed splits all images, those of %s alike; train and val, and no other folders, would be "
                    "taken as they are",
                    *(self.path / "images", listed(folder.name for folder in named.values())),
                )
            record = seeded_split(names, self.val_fraction, self.test_fraction, self.split_seed)
        else:
            record = read_split_record(self.splits, names)
        pair_of_name = {pair.name: pair for pair in pairs}
        return {split: [pair_of_name[name] for name in record[split]] for split in SPLITS}

    def _given_splits(self, folders: dict[str, tuple[Path, Path]]) -> dict[str, list[Pair]]:
        if self.splits is not None:
            raise UserError(f"splits: {self.path} is split by its folders; leave splits out")
        self.note_unused(SEEDED, f"{self.path} is split by its folders")
        if "val" not in folders:
            raise UserError(f"{self.path / 'val'}: no such folder; add one beside 'train', or let images be split")
        return {
            split: find_pairs(*folders[split], self.image_suffix, self.mask_suffix) if split in folders else []
            for split in SPLITS
        }

    def label_table(self) -> LabelTable:
        """Return the class id of every raw label in the masks."""
        return LabelTable(self.num_classes, self.class_map, self.ignore_labels)

    def file_labels(self) -> list[int]:
        """Return the label of each class in mask files: black and white where a threshold makes the classes."""
        return [0, 255] if self.mask_threshold is not None else super().file_labels()

    def found_arguments(self) -> dict[str, Any]:
        """Return the names of the classes, unless a map states them."""
        stated = self.class_map is not None and self.mask_threshold is None
        return {} if stated else {"class_names": self.class_names}
