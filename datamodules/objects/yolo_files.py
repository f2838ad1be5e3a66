"""Files of YOLO: `data.yaml` names classes and images, and a text file for each image holds a polygon a line."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.file_names import NameTable, ends_with, stem_of
from datamodules.common.pairs import find_image_files
from datamodules.common.splits import SPLITS, named_split, split_folders
from datamodules.common.threads import map_in_threads
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.polygons import polygon_mask
from eomt.errors import UserError, counted, listed, shortened
from eomt.utils.images import IMAGE_EXTENSIONS
from eomt.utils.paths import check_text
from eomt.utils.reading import checked, read_text
from eomt.utils.yaml_bounds import YAML_ERRORS, check_yaml

log = logging.getLogger("eomt")

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
# what tools write that give no data.yaml: a class a line
NAME_LISTS = ("classes.txt", "obj.names")
REMEDY = "give the data.yaml of a data set in YOLO's format"
LABELS = ".txt"
# coordinates are rounded, and tools draw a little outside
MOST_BEYOND = 0.05
# a class and center, width and height of a box; a class and three points
NUMBERS_OF_BOX, FEWEST_NUMBERS = 5, 7


# folders of images, or lists of images
Places = str | list[str] | None


class Description(TypedDict, total=False):
    """What is read of a data.yaml."""

    path: str | None
    train: Places
    val: Places
    test: Places
    nc: int
    names: list[str | int | float] | dict[int | str, str | int | float]


DESCRIPTION = TypeAdapter(Description)


@dataclass(frozen=True)
class YoloLabels:
    """The text file of an image; None for an image without one, which shows nothing."""

    file: Path | None
    num_classes: int

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return an object for each line, see `ObjectAnnotation`: coordinates are shares of the turned image."""
        found = [] if self.file is None else read_labels(self.file, self.num_classes)
        scale = np.array(size[::-1])
        masks = (polygon_mask([points * scale], size, place) for place, _, points in found)
        return Objects.from_masks(size, masks, [class_id for _, class_id, _ in found])


@dataclass(frozen=True)
class YoloFolder:
    """What a description says: names of the classes, and the images of each split that it names, or of "all"."""

    class_names: list[str]
    splits: dict[str, list[AnnotatedImage]]


def find_description(path: Path) -> Path | None:
    """Return the file that describes a data set in YOLO's format: itself, or that in a folder; None without one."""
    if os.path.isfile(path):
        return path if ends_with(path.name, ".yaml", ".yml") else None
    return next((path / name for name in (*DESCRIPTIONS, *NAME_LISTS) if os.path.isfile(path / name)), None)


def read_yolo(path: Path) -> YoloFolder:
    """Read a data set.

    Args:
        path: A data.yaml, or a folder with one, or with `classes.txt`, `images` and `labels`.

    Raises:
        UserError: Files are missing, or hold something else.
    """
    file = find_description(path)
    if file is None:
        raise UserError(f"{path}: holds no data.yaml; {REMEDY}")
    root, given = file.parent, dict[str, Places]()
    if file.name in NAME_LISTS:
        names = [line.strip() for line in read_text(file, REMEDY).splitlines() if line.strip()]
    else:
        described = read_description(file)
        names = _class_names(file, described)
        # tools write the folder in which the data set once lay, or where it was downloaded to
        root = next((place for place in (root / (described.get("path") or ""),) if place.is_dir()), root)
        given = {"train": described.get("train"), "val": described.get("val"), "test": described.get("test")}
    # supervision and Label Studio name none
    given = given if any(given.values()) else _usual_places(file.parent)
    splits = {split: _split(file, root, place, len(names)) for split, place in given.items() if place}
    if not splits:
        raise UserError(f"{file}: names no images; add train and val, folders or lists of images")
    _tell_unlisted(file, splits)
    return YoloFolder(names, splits)


def _tell_unlisted(file: Path, splits: Mapping[str, Sequence[AnnotatedImage]]) -> None:
    """Tell of images that lie beside those of lists, but stand in none."""
    used = {str(sample.image) for samples in splits.values() for sample in samples}
    for folder in sorted({os.path.dirname(image) for image in used}):
        beside = [name for name in sorted(os.listdir(folder)) if ends_with(name, *IMAGE_EXTENSIONS)]
        if unlisted := [name for name in beside if os.path.join(folder, name) not in used]:
            log.warning(
                "%s: its lists do not name %d of %d images in %s, which are not used: %s",
                *(file, len(unlisted), len(beside), folder, listed(unlisted, most=3)),
            )


def _usual_places(folder: Path) -> dict[str, Places]:
    """Return the folders of images that tools make, by split or under "all"."""
    outside, inside = split_folders(folder), split_folders(folder / "images")
    found: dict[str, Places] = {}
    for split in SPLITS:
        places = ([outside[split] / "images"] if split in outside else []) + (
            [inside[split]] if split in inside else []
        )
        found[split] = next((place.relative_to(folder).as_posix() for place in places if place.is_dir()), None)
    return found if any(found.values()) or not (folder / "images").is_dir() else {"all": "images"}


def read_description(file: Path) -> Description:
    """Return what a data.yaml says.

    Raises:
        UserError: It cannot be read, or says something else.
    """
    text = read_text(file, REMEDY)
    check_yaml(text, str(file))
    try:
        found = yaml.safe_load(text)
    except YAML_ERRORS as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"{file}: cannot be read as YAML ({reason}); {REMEDY}") from error
    return checked(_with_known_splits(found) if isinstance(found, dict) else found, DESCRIPTION, str(file), REMEDY)


def _with_known_splits(found: dict[Any, Any]) -> dict[Any, Any]:
    """Return a description whose splits have our names: tools write valid, or Train."""
    renamed: dict[Any, Any] = {}
    for key, value in found.items():
        split = named_split(key) if isinstance(key, str) else None
        renamed[split or key] = (renamed.get(split) or value) if split else value
    return renamed


def read_labels(file: Path, num_classes: int) -> list[tuple[str, int, np.ndarray]]:
    """Return the objects of a text file: place for messages, class id, and points (P, 2) in shares of the image.

    Raises:
        UserError: A line is no class and polygon.
    """
    text = read_text(file, "write a class and a polygon a line, or remove the file")
    return list(_objects(file, text, num_classes))


def _objects(file: Path, text: str, num_classes: int) -> Iterator[tuple[str, int, np.ndarray]]:
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{file}: line {number}"
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError as error:
            raise UserError(f"{place}: {shortened(line)!r}; must be a class and x y x y ..., numbers alone") from error
        if not len(values):
            continue
        if len(values) == NUMBERS_OF_BOX:
            raise UserError(
                f"{place}: a box, without the outline of its object; export polygons (segmentation), or let SAM 2 make "
                "masks of boxes, see docs/prompted.md"
            )
        if len(values) < FEWEST_NUMBERS or len(values) % 2 == 0:
            raise UserError(f"{place}: {len(values)} numbers; a class and x and y of three points or more are needed")
        if not (float(values[0]).is_integer() and 0 <= values[0] < num_classes):
            raise UserError(
                f"{place}: class {values[0]:g}; data.yaml names {num_classes} classes, "
                f"0 to {num_classes - 1}: add its name, or remove the line"
            )
        points = values[1:].reshape(-1, 2)
        if not (np.abs(points - 0.5) <= 0.5 + MOST_BEYOND).all():
            value = points.flat[np.abs(points - 0.5).argmax()]
            raise UserError(
                f"{place}: coordinate {value:g}; YOLO's are shares of width and height, 0 to 1: divide pixels by them"
            )
        yield place, int(values[0]), points


def _class_names(file: Path, described: Description) -> list[str]:
    names = described.get("names")
    if not names:
        raise UserError(f"{file}: names no classes; add names, a list")
    if described.get("nc", len(names)) != len(names):
        raise UserError(f"{file}: nc is {described['nc']}, but names has {counted(len(names), 'name')}; correct one")
    if isinstance(names, list):
        return [str(name) for name in names]
    by_id = {int(key): str(name) for key, name in names.items() if str(key).strip().isdecimal()}
    if len(by_id) != len(names) or sorted(by_id) != list(range(len(names))):
        raise UserError(f"{file}: names has the ids {listed(names)}; must be 0 to {len(names) - 1}")
    return [by_id[class_id] for class_id in range(len(by_id))]


def _split(file: Path, root: Path, given: str | Sequence[str], num_classes: int) -> list[AnnotatedImage]:
    """Return the images of one split, sorted by name."""
    entries = [given] if isinstance(given, str) else list(given)
    places = [_located(file, root, entry) for entry in entries]
    images: dict[str, Path] = {}
    for place in places:
        images |= {str(image): image for image in (_listed_images(place) if place.is_file() else _images_in(place))}
    if not images:
        raise UserError(f"{file}: {listed(entries)} holds no image; put images there, or correct the path")
    is_folder = len(places) == 1 and places[0].is_dir()
    base = places[0] if is_folder else Path(os.path.commonpath([image.parent for image in images.values()]))
    labels = _labels_of(list(images.values()))
    if not any(labels.values()):
        raise UserError(f"{file}: no image of {listed(entries)} has a label file, such as {_label_place(base / 'a.x')}")
    if without := [str(image) for image, label in labels.items() if label is None]:
        log.info(
            "%s: %s without a label file, taken to show nothing: %s",
            *(file, counted(len(without), "image"), listed(without, most=3)),
        )
    found = [YoloLabels(label, num_classes) for label in labels.values()]
    classes = map_in_threads(
        lambda one: frozenset() if one.file is None else frozenset(c for _, c, _ in read_labels(one.file, num_classes)),
        found,
        "Reading labels",
    )
    samples = [
        AnnotatedImage(Path(os.path.relpath(image, base)).as_posix(), image, shown, annotation)
        for image, shown, annotation in zip(labels, classes, found, strict=True)
    ]
    return sorted(samples, key=lambda sample: sample.name)


def _located(file: Path, root: Path, entry: str) -> Path:
    """Return the folder or list that an entry of a description names."""
    # Roboflow writes ../train/images for the folder train/images beside the description
    inside = entry.removeprefix("../")
    tried = [root / entry, file.parent / entry, root / inside, file.parent / inside]
    for place in tried:
        if os.path.isdir(place) or os.path.isfile(place):
            return Path(os.path.normpath(place))
    raise UserError(f"{file}: {shortened(entry)!r} is no folder and no list of images ({tried[0]}); correct the path")


def _images_in(folder: Path) -> list[Path]:
    return [folder / name for name in find_image_files(folder)]


def _listed_images(file: Path) -> Iterator[Path]:
    """Yield the images that a text file lists, relative to its folder."""
    for number, line in enumerate(read_text(file, "give a list of images, a path a line").splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        image = Path(os.path.normpath(file.parent / entry))
        check_text(image)
        # CVAT and Darknet write data/ before paths in the data set
        image = image if os.path.isfile(image) else file.parent / entry.removeprefix("data/")
        if not os.path.isfile(image):
            raise UserError(f"{file}: line {number}: no image {image}; add it, or remove the line")
        yield image


def _label_place(image: Path) -> Path:
    """Return the folder in which the label file of an image belongs: `labels` in the place of the last `images`."""
    parts = image.parent.parts
    last = max((index for index, part in enumerate(parts) if part == "images"), default=None)
    return image.parent if last is None else Path(*parts[:last], "labels", *parts[last + 1 :])


def _labels_of(images: Sequence[Path]) -> dict[Path, Path | None]:
    """Return the label file of each image; None for one without.

    Raises:
        UserError: Two images share a label file, or one is of no image.
    """
    listings: dict[Path, NameTable] = {}
    found: dict[Path, Path | None] = {}
    image_of: dict[Path, Path] = {}
    for image in images:
        wanted = image.stem + LABELS
        for folder in dict.fromkeys((_label_place(image), image.parent)):
            if folder not in listings:
                listings[folder] = NameTable(os.listdir(folder) if folder.is_dir() else [])
            name = listings[folder](wanted)
            if name is not None:
                label = folder / name
                if label in image_of:
                    raise UserError(f"{image}: shares its label file {label} with {image_of[label]}; keep one of them")
                image_of[label] = image
                found[image] = label
                break
        else:
            found[image] = None
    _refuse_orphans(images)
    return found


def _refuse_orphans(images: Sequence[Path]) -> None:
    """Raise a UserError for a label file in a folder of labels whose image does not exist, listed or not."""
    for folder in sorted({image.parent for image in images}):
        labels = _label_place(folder / "x")
        if labels == folder or not labels.is_dir():
            continue
        stems = {_stem(name) for name in os.listdir(folder) if ends_with(name, *IMAGE_EXTENSIONS)}
        files = [name for name in sorted(os.listdir(labels)) if ends_with(name, LABELS) and name not in NAME_LISTS]
        if orphans := [name for name in files if stem_of(name, LABELS) not in stems]:
            raise UserError(
                f"{labels / orphans[0]}: no image belongs to it ({len(orphans)} of {len(files)} label files have "
                f"none in {folder}); add the images, or remove the files"
            )


def _stem(name: str) -> str:
    return stem_of(name, os.path.splitext(name)[1])
