"""CSV files that list images and their classes."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.classification.labels import LabeledImage, LabeledSet
from datamodules.common.file_names import FileFinder
from datamodules.common.pairs import IMAGE_EXTENSIONS, ends_with
from datamodules.common.splits import SPLITS, named_split
from datamodules.common.tables import read_table
from eomt.errors import UserError, counted, listed, shortened

log = logging.getLogger("eomt")

PATH_COLUMNS = ("path", "image_path", "image", "file")
LABEL_COLUMNS = ("label", "labels", "class")
SPLIT = "split"
MARKS = {"0": False, "0.0": False, "1": True, "1.0": True}


def read_label_table(file: Path, label_separator: str | None) -> LabeledSet:
    """Read a CSV with the columns `path` and `label`, or `path` and one of 0 and 1 for each class; and maybe `split`.

    Paths are relative to the CSV's folder, or absolute. `split` is train, val or test, or another name of these.

    Args:
        file: The CSV.
        label_separator: What parts the classes in a `label` of several; None where each image has one.

    Raises:
        UserError: The file cannot be read, columns are missing, or a row is wrong; it is named, the header is row 1.
    """
    columns, lines = read_table(file)
    path_column = next((column for column in PATH_COLUMNS if column in columns), None)
    label_column = next((column for column in LABEL_COLUMNS if column in columns), None)
    marked = [column for column in columns if column not in (path_column, label_column, SPLIT)]
    if path_column is None or (label_column is None and len(marked) < 2):
        raise UserError(f"{file}: columns {listed(columns)}; must have path and label, or path and one for each class")
    if label_column is None and label_separator is not None:
        raise UserError(f"label_separator: {label_separator!r}, but {file} has no column label; leave it out")
    if not lines:
        raise UserError(f"{file}: no row below the header; list the images there")
    find, seen = FileFinder(file.parent), dict[Path, int]()
    images = []
    for number, cells in lines:
        row = dict(itertools.zip_longest(columns, cells[: len(columns)], fillvalue=""))
        image = find(name := row[path_column])
        if image is None:
            raise UserError(f"{file}: row {number}: no image {file.parent / name}; restore it, or take the row out")
        if image in seen:
            raise UserError(f"{file}: row {number}: {name} stands in row {seen[image]} already; keep one of the two")
        seen[image] = number
        if label_column is None:
            labels = tuple(column for column in marked if _is_marked(row[column], column, f"{file}: row {number}"))
        else:
            labels = _labels(row[label_column], label_separator, f"{file}: row {number}")
        stated = row.get(SPLIT, "")
        split = named_split(stated) or ""
        if stated and not split:
            raise UserError(f"{file}: row {number}: split {shortened(stated)!r}; must be {', '.join(SPLITS)}")
        images.append(LabeledImage(Path(name).as_posix(), image, labels, split))
    without = [number for (number, _), image in zip(lines, images, strict=True) if not image.split]
    if 0 < len(without) < len(images):
        raise UserError(f"{file}: row {without[0]}: no split, where other rows have one; give all rows one, or none")
    _tell_of_unlisted(file, seen)
    names = marked if label_column is None else sorted({label for image in images for label in image.labels})
    multi_label = label_column is None or label_separator is not None
    _check_names(file, names, images, multi_label)
    return LabeledSet(images, names, multi_label)


def _tell_of_unlisted(file: Path, seen: Mapping[Path, int]) -> None:
    """Say which images lie beside those of a table, and are not in it."""
    others = sorted(
        other.as_posix()
        for folder in {image.parent for image in seen}
        for other in folder.iterdir()
        if ends_with(other.name, *IMAGE_EXTENSIONS) and not other.name.startswith(".") and other not in seen
    )
    if others:
        log.info(
            "%s: %s beside those that it lists, left out: %s",
            *(file, counted(len(others), "image"), listed(others, most=3)),
        )


def _labels(cell: str, separator: str | None, place: str) -> tuple[str, ...]:
    if separator is None:
        if not cell:
            raise UserError(f"{place}: no label; give one, or take the row out")
        return (cell,)
    labels = [part.strip() for part in cell.split(separator)]
    return tuple(dict.fromkeys(label for label in labels if label))


def _is_marked(cell: str, column: str, place: str) -> bool:
    if cell not in MARKS:
        raise UserError(f"{place}: {shortened(cell)!r} in column {shortened(column)}; must be 0 or 1")
    return MARKS[cell]


def _check_names(file: Path, names: Sequence[str], images: Sequence[LabeledImage], multi_label: bool) -> None:
    if multi_label:
        shown = {label for image in images for label in image.labels}
        if absent := [name for name in names if name not in shown]:
            raise UserError(f"{file}: no row has a 1 in column {shortened(absent[0])}; take the column out")
    if len(names) < (1 if multi_label else 2):
        raise UserError(f"{file}: images of {len(names)} class ({listed(names)}); there is nothing to choose between")
