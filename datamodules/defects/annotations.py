"""Annotations of an image: Kaggle's runs, Supervisely's JSON, or a plain mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.common.label_arrays import count_labels
from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_mask, stored_size, turned
from datamodules.common.zip_members import ImageFile
from datamodules.defects.run_length import decode_runs
from datamodules.defects.supervisely import read_objects
from eomt.errors import UserError

BACKGROUND = 0
# how masks of a single class are often stored
WHITE = 255


class Annotation(Protocol):
    """Knowledge about one image."""

    def masks(self, size: tuple[int, int], orientation: int) -> dict[int, np.ndarray]:
        """Return a mask (H, W) bool for each class id, none of them empty.

        Args:
            size: Height and width of the image, turned as its orientation says.
            orientation: EXIF orientation of the image, for annotations that live in the pixels of its file.

        Raises:
            UserError: The annotation is damaged or does not fit the image.
        """


@dataclass(frozen=True)
class AnnotatedImage:
    """An image: its name, its file, the ids of the classes it shows, and where."""

    name: str
    image: Path
    classes: frozenset[int]
    annotation: Annotation


@dataclass(frozen=True)
class RunLengths:
    """Rows of a table: number in the file, class id, runs. No rows: an image that shows nothing."""

    file: Path
    rows: tuple[tuple[int, int, str], ...] = ()

    def masks(self, size: tuple[int, int], orientation: int) -> dict[int, np.ndarray]:
        """Return the mask of each class, see `Annotation`."""
        stored = stored_size(size, orientation)
        return _united(
            (class_id, turned(decode_runs(runs, stored, f"{self.file}: row {row}"), orientation))
            for row, class_id, runs in self.rows
        )


@dataclass(frozen=True)
class SuperviselyFile:
    """A JSON file, and the class titles by id."""

    file: Path
    class_names: tuple[str, ...]

    def masks(self, size: tuple[int, int], orientation: int) -> dict[int, np.ndarray]:
        """Return the mask of each class, see `Annotation`."""
        objects = read_objects(self.file, stored_size(size, orientation))
        return _united((self.class_names.index(title), turned(mask, orientation)) for title, mask in objects)


@dataclass(frozen=True)
class MaskFile:
    """A mask in which class id i is stored as i + 1; where there is one class alone, 255 is that class too."""

    pair: Pair
    num_classes: int

    def masks(self, size: tuple[int, int], orientation: int) -> dict[int, np.ndarray]:
        """Return the mask of each class, see `Annotation`."""
        raw = read_mask(self.pair.mask, image=self.pair.image)
        check_same_size(self.pair, size, raw.shape)
        return _united(
            (class_of_value(value, self.num_classes, self.pair.mask), raw == value) for value in mask_values(raw)
        )


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


def _united(objects: Iterator[tuple[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Return the union of each class's masks, by rising class id."""
    united: dict[int, np.ndarray] = {}
    for class_id, mask in objects:
        united[class_id] = united[class_id] | mask if class_id in united else mask
    return dict(sorted(united.items()))
