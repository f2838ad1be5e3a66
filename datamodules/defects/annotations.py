"""Annotations of an image: Kaggle's runs, Supervisely's JSON, or a plain mask."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.label_arrays import count_labels
from datamodules.common.orientation import stored_size, turned
from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_mask
from datamodules.common.zip_members import ImageFile
from datamodules.defects.run_length import decode_runs
from datamodules.defects.supervisely import read_objects
from datamodules.objects.annotation import Objects
from eomt.errors import UserError

BACKGROUND = 0
# how masks of a single class are often stored
WHITE = 255


@dataclass(frozen=True)
class RunLengths:
    """Rows of a table: number in the file, class id, runs. No rows: an image that shows nothing."""

    file: Path
    rows: tuple[tuple[int, int, str], ...] = ()

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return an object for each row, see `ObjectAnnotation`."""
        stored = stored_size(size, orientation)
        masks = (
            turned(decode_runs(runs, stored, f"{self.file}: row {row}"), orientation) for row, _, runs in self.rows
        )
        return Objects.from_masks(size, masks, [class_id for _, class_id, _ in self.rows])


@dataclass(frozen=True)
class SuperviselyFile:
    """A JSON file, and the class titles by id."""

    file: Path
    class_names: tuple[str, ...]

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return the objects of the file, see `ObjectAnnotation`."""
        found = read_objects(self.file, stored_size(size, orientation))
        masks = (turned(mask, orientation) for _, mask in found)
        return Objects.from_masks(size, masks, [self.class_names.index(title) for title, _ in found])


@dataclass(frozen=True)
class MaskFile:
    """A mask in which class id i is stored as i + 1; where there is one class alone, 255 is that class too."""

    pair: Pair
    num_classes: int

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return an object for each class, see `ObjectAnnotation`."""
        raw = read_mask(self.pair.mask, image=self.pair.image)
        check_same_size(self.pair, size, raw.shape)
        class_of = {value: class_of_value(value, self.num_classes, self.pair.mask) for value in mask_values(raw)}
        return Objects.from_map(raw, class_of)


def mask_values(raw: np.ndarray) -> list[int]:
    """Return the values other than the background in a mask, rising."""
    return [value for value in count_labels(raw) if value != BACKGROUND]


def class_of_value(value: int, num_classes: int, file: ImageFile) -> int:
    """Return the class id of a value in a mask.

    Raises:
        UserError: It is no class; the file is named.
    """
    if num_classes == 1 and value == WHITE:
        return 0
    if value > num_classes:
        raise UserError(f"{file}: value {value}; must be 0 (background) to {num_classes}, see class_names")
    return value - 1
