"""Layouts of folders with annotated images: Kaggle's table, Supervisely's export, or images and masks."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.common.areas import check_areas
from datamodules.common.file_names import NameTable
from datamodules.common.pairs import Pair, find_files, find_image_files, find_pairs
from datamodules.common.reading import read_mask
from datamodules.common.tables import read_table
from datamodules.common.threads import map_in_threads
from datamodules.defects.annotations import (
    WHITE,
    MaskFile,
    RunLengths,
    SuperviselyFile,
    class_of_value,
    mask_values,
)
from datamodules.defects.run_length import parse_runs
from datamodules.defects.supervisely import read_titles
from datamodules.objects.annotation import AnnotatedImage
from eomt.errors import UserError, listed, shortened
from eomt.utils.images import IMAGE_EXTENSIONS

SEVERSTAL_CLASSES = ("defect_1", "defect_2", "defect_3", "defect_4")


class AnnotationLayout(ABC):
    """A folder of annotated images.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def labels(self) -> set[Any]:
        """Return how the annotations call the classes that occur."""

    @abstractmethod
    def class_names(self, labels: set[Any]) -> list[str]:
        """Return the names of the classes, where the user gives none, if just these labels occur."""

    @abstractmethod
    def samples(self, class_names: Sequence[str]) -> list[AnnotatedImage]:
        """Return all images, sorted by name.

        Raises:
            UserError: A class is unknown, or an image or annotation lacks its partner.
        """


class KaggleLayout(AnnotationLayout):
    """`train.csv` beside `train_images`.

    The table has the columns `ImageId,ClassId,EncodedPixels` or `ImageId_ClassId,EncodedPixels`; classes count from
    1, rows without runs mean nothing.
    """

    def labels(self) -> set[Any]:
        """Return how the annotations call the classes that occur."""
        return set()

    def class_names(self, labels: set[Any]) -> list[str]:
        """Return the names of the classes, where the user gives none, if just these labels occur."""
        return list(SEVERSTAL_CLASSES)

    def samples(self, class_names: Sequence[str]) -> list[AnnotatedImage]:
        """Return all images, sorted by name."""
        table, images = self.folder / "train.csv", self.folder / "train_images"
        if not images.is_dir():
            raise UserError(f"{images}: no such folder; put the images of train.csv there")
        rows: dict[str, list[tuple[int, int, str]]] = {name: [] for name in find_image_files(images)}
        find = NameTable(rows)
        for row, stated, label, runs in _table_rows(table):
            name = find(stated)
            if name is None:
                raise UserError(f"{table}: row {row}: no image {images / stated}; add it, or remove the row")
            if label not in map(str, range(1, len(class_names) + 1)):
                raise UserError(f"{table}: row {row}: class {shortened(label)!r}; must be 1 to {len(class_names)}")
            if runs:
                # here, so that a mistake is found whichever split its image falls into
                parse_runs(runs, f"{table}: row {row}")
                rows[name].append((row, int(label) - 1, runs))
        return [
            AnnotatedImage(
                name, images / name, frozenset(class_id for _, class_id, _ in found), RunLengths(table, tuple(found))
            )
            for name, found in rows.items()
        ]


class SuperviselyLayout(AnnotationLayout):
    """`img/X.jpg` and `ann/X.jpg.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # name of the annotation of each image, which another program may have spelled in another way
        self._annotations: dict[str, str] = {}

    @cached_property
    def _titles(self) -> dict[str, frozenset[str]]:
        """Class titles in each image."""
        names = find_image_files(self.folder / "img")
        annotated, find = find_files(self.folder / "ann", (".json",)), NameTable(names)
        if not names:
            raise UserError(f"{self.folder / 'img'}: no image; put images there ({listed(IMAGE_EXTENSIONS)})")
        self._annotations = {image: name for name in annotated if (image := find(name[: -len(".json")])) is not None}
        if lonely := sorted(set(names) - set(self._annotations)):
            raise UserError(f"{self.folder / 'img' / lonely[0]}: no {self._file(lonely[0])}; export the annotation too")
        if orphans := sorted(set(annotated) - set(self._annotations.values())):
            raise UserError(f"{self.folder / 'ann' / orphans[0]}: no image in img belongs to it; add the image")
        titles = map_in_threads(lambda name: frozenset(read_titles(self._file(name))), names, "Reading annotations")
        return dict(zip(names, titles, strict=True))

    def _file(self, name: str) -> Path:
        return self.folder / "ann" / self._annotations.get(name, f"{name}.json")

    def labels(self) -> set[Any]:
        """Return how the annotations call the classes that occur."""
        return set().union(*self._titles.values())

    def class_names(self, labels: set[Any]) -> list[str]:
        """Return the names of the classes, where the user gives none, if just these labels occur."""
        # one of Severstal's titles among others: those are errors, and would shift the ids
        return list(SEVERSTAL_CLASSES) if labels & set(SEVERSTAL_CLASSES) or not labels else sorted(labels)

    def samples(self, class_names: Sequence[str]) -> list[AnnotatedImage]:
        """Return all images, sorted by name."""
        ids = {title: class_id for class_id, title in enumerate(class_names)}
        for name, titles in self._titles.items():
            if unknown := sorted(titles - set(ids)):
                number = read_titles(self._file(name)).index(unknown[0])
                raise UserError(
                    f"{self._file(name)}: object {number}: unknown class {shortened(unknown[0])!r}; must be one of "
                    f"{listed(class_names)}, see class_names"
                )
        return [
            AnnotatedImage(
                name,
                self.folder / "img" / name,
                frozenset(ids[title] for title in titles),
                SuperviselyFile(self._file(name), tuple(class_names)),
            )
            for name, titles in self._titles.items()
        ]


class MaskLayout(AnnotationLayout):
    """`images` and `masks`, of which 0 is background and 1, 2, ... are the classes."""

    @cached_property
    def _values(self) -> list[tuple[Pair, list[int]]]:
        """Values other than the background in each mask."""
        pairs = sorted(
            find_pairs(self.folder / "images", self.folder / "masks", None, None), key=lambda pair: pair.name
        )
        values = map_in_threads(
            lambda pair: mask_values(read_mask(pair.mask, image=pair.image)), pairs, "Reading masks"
        )
        return list(zip(pairs, values, strict=True))

    def labels(self) -> set[Any]:
        """Return how the annotations call the classes that occur."""
        return {value for _, values in self._values for value in values}

    def class_names(self, labels: set[Any]) -> list[str]:
        """Return the names of the classes, where the user gives none, if just these labels occur."""
        if labels == {WHITE}:
            return ["class 1"]
        masks = (read_mask(pair.mask) for pair, _ in self._values)
        remedy = "store 0 and 1, 2, 3, ..., or just black and white, or give class_names if all are classes"
        check_areas(labels, masks, str(self.folder / "masks"), remedy)
        if not labels or labels != set(range(1, len(labels) + 1)):
            raise UserError(
                f"{self.folder / 'masks'}: values {listed(sorted(labels))} beside the "
                "background 0; store the classes as 1, 2, 3, ..., or give class_names if some are absent"
            )
        return [f"class {label}" for label in sorted(labels)]

    def samples(self, class_names: Sequence[str]) -> list[AnnotatedImage]:
        """Return all images, sorted by name."""
        count = len(class_names)
        return [
            AnnotatedImage(
                pair.name,
                self.folder / "images" / pair.name,
                frozenset(class_of_value(value, count, pair.mask) for value in values),
                MaskFile(pair, count),
            )
            for pair, values in self._values
        ]


def find_layout(folder: Path) -> AnnotationLayout:
    """Tell by its contents how a folder is laid out.

    Raises:
        UserError: It holds nothing known.
    """
    if (folder / "train.csv").is_file():
        return KaggleLayout(folder)
    if (folder / "img").is_dir() and (folder / "ann").is_dir():
        return SuperviselyLayout(folder)
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return MaskLayout(folder)
    raise UserError(
        f"{folder}: holds neither train.csv, nor img and ann (Supervisely), nor images and masks; "
        "see Severstal for the layouts"
    )


def _table_rows(table: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield number in the file (the header is row 1), image, class and runs of each row."""
    header, lines = read_table(table)
    columns = set(header)
    if not (columns >= {"ImageId", "ClassId", "EncodedPixels"} or columns >= {"ImageId_ClassId", "EncodedPixels"}):
        raise UserError(
            f"{table}: columns {listed(header)}; must be ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels"
        )
    for number, cells in lines:
        fields = dict(itertools.zip_longest(header, cells[: len(header)], fillvalue=""))
        if "ImageId" in columns:
            name, label = fields["ImageId"], fields["ClassId"]
        else:
            name, _, label = fields["ImageId_ClassId"].rpartition("_")
        if not name:
            column = "ImageId" if "ImageId" in columns else "ImageId_ClassId"
            found = shortened(fields[column]) or "nothing"
            raise UserError(
                f"{table}: row {number}: {column} {found!r}; must name an image{' and a class' * ('_' in column)}"
            )
        yield number, name, label, fields["EncodedPixels"]
