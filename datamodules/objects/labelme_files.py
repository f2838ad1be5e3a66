"""LabelMe's JSON: a file for each image, with shapes that have a label.

https://github.com/wkentaro/labelme; X-AnyLabeling, AnyLabeling and others write it, too.
"""

import base64
import binascii
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.bitmaps import decode_bitmap
from datamodules.common.contained import ContainedImage
from datamodules.common.file_names import FileFinder, ends_with
from datamodules.common.orientation import stored_size, turned
from datamodules.common.pairs import find_files, find_image_files
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.polygons import check_polygon, polygon_mask
from eomt.errors import UserError, counted, listed, shortened
from eomt.utils.images import COMMON_EXTENSIONS
from eomt.utils.reading import Count, Number, Text, Whole, read_json, read_text

log = logging.getLogger("eomt")

JSON = ".json"
# labels of labelme's own label files that are no class
NO_CLASSES = ("_background_", "__ignore__")
POLYGONS = ("polygon", "oriented_rectangle", "rotation")
# beside polygons, of two points each
OTHERS = ("rectangle", "circle", "mask")

Point = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Shape(TypedDict):
    """What is read of a shape."""

    label: Text
    points: list[Point]
    shape_type: NotRequired[str | None]
    group_id: NotRequired[Whole | None]
    mask: NotRequired[str | None]


class ShapeFile(TypedDict):
    """What is read of a file."""

    shapes: list[Shape]
    imagePath: NotRequired[str | None]
    imageHeight: NotRequired[Count | None]
    imageWidth: NotRequired[Count | None]


class EmbeddedImage(TypedDict):
    """What is read of a file for its image alone."""

    imageData: NotRequired[str | None]


SHAPES, EMBEDDED = TypeAdapter(ShapeFile), TypeAdapter(EmbeddedImage)
REMEDY = "give LabelMe's JSON, a file for each image"


@dataclass(frozen=True)
class LabelMeImage(ContainedImage):
    """The image that a JSON file holds in base64."""

    file: Path

    def __str__(self) -> str:
        return f"{self.file}: imageData"

    @property
    def archive(self) -> Path:
        """The JSON file."""
        return self.file

    def read(self) -> bytes:
        """Return the file of the image.

        Raises:
            UserError: It is no base64.
        """
        data = read_json(self.file, EMBEDDED, REMEDY).get("imageData") or ""
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{self}: is not base64 ({error}); save the file again") from error


@dataclass(frozen=True)
class LabelMeFile:
    """A JSON file, and the names of the classes by id."""

    file: Path
    class_names: tuple[str, ...]

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return the objects, see `ObjectAnnotation`: shapes of one label and group are parts of one object."""
        content = read_json(self.file, SHAPES, REMEDY)
        drawn_on = self._size_of_drawing(content, size, orientation)
        united: dict[tuple[str, int | str], np.ndarray] = {}
        for number, shape, kind in labeled_shapes(self.file, content):
            mask = _mask(shape, kind, drawn_on, f"{self.file}: shape {number}")
            group = shape.get("group_id")
            key = (shape["label"], f"shape {number}" if group is None else group)
            united[key] = united[key] | mask if key in united else mask
        is_stored = drawn_on != size
        masks = (turned(mask, orientation if is_stored else 1) for mask in united.values())
        return Objects.from_masks(size, masks, [self.class_names.index(label) for label, _ in united])

    def _size_of_drawing(self, content: ShapeFile, size: tuple[int, int], orientation: int) -> tuple[int, int]:
        """Return the size of the pixels that the shapes were drawn on: labelme shows images as they are turned."""
        height, width = content.get("imageHeight"), content.get("imageWidth")
        if height is None or width is None or (height, width) == size:
            return size
        if (height, width) == stored_size(size, orientation):
            return height, width
        raise UserError(
            f"{self.file}: imageHeight, imageWidth {height} x {width} for an image of {size[0]} x {size[1]}; "
            "give the image that was labeled"
        )


def labeled_shapes(file: Path, content: ShapeFile) -> Iterator[tuple[int, Shape, str]]:
    """Yield number, shape and kind of the shapes whose label is a class.

    Raises:
        UserError: A shape has no area, or the wrong number of points.
    """
    for number, shape in enumerate(content["shapes"]):
        if shape["label"] in NO_CLASSES:
            continue
        # old files name no kind
        kind, count = shape.get("shape_type") or "polygon", len(shape["points"])
        place = f"{file}: shape {number} ({shortened(shape['label'])})"
        # some draw rectangles of four points, in any direction
        kind = "polygon" if kind in POLYGONS or (kind == "rectangle" and count > 2) else kind
        if kind not in ("polygon", *OTHERS):
            raise UserError(
                f"{place}: a {shortened(kind)}, which is no area; draw a polygon, rectangle, circle or mask, or remove "
                "it"
            )
        if kind != "polygon" and count != 2:
            raise UserError(f"{place}: a {kind} of {counted(count, 'point')}; it has 2, draw it again")
        if kind == "mask" and not shape.get("mask"):
            raise UserError(f"{place}: a mask without pixels; draw it again")
        yield number, shape, kind


def _mask(shape: Shape, kind: str, size: tuple[int, int], place: str) -> np.ndarray:
    """Return the mask of a shape, (H, W) bool, not empty."""
    points = np.array(shape["points"], dtype=np.float64).reshape(-1, 2)
    if kind == "polygon":
        return polygon_mask([points], size, place)
    if kind == "mask":
        return _placed(decode_bitmap(shape.get("mask") or "", place, "mask"), points[0], size, place)
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return polygon_mask([np.array([[left, top], [right, top], [right, bottom], [left, bottom]])], size, place)
    center, edge = points
    radius = float(np.hypot(*(edge - center)))
    # of a circle around a point in the image, any part may be outside
    check_polygon(np.array([center, center, center]), size, place)
    rows, columns = (np.arange(side) + 0.5 for side in size)
    mask = np.hypot(rows[:, None] - center[1], columns - center[0]) <= radius
    return mask if mask.any() else polygon_mask([np.array([center, center, center])], size, place)


def _placed(part: np.ndarray, corner: np.ndarray, size: tuple[int, int], place: str) -> np.ndarray:
    """Return a mask at the size of the image, of its part whose first pixel is at a corner (x, y)."""
    left, top = (int(value) for value in corner)
    height, width = part.shape
    if not (0 <= left <= size[1] - width and 0 <= top <= size[0] - height):
        raise UserError(
            f"{place}: a mask of {height} x {width} (height x width) at ({left}, {top}) leaves the image of {size[0]} "
            f"x {size[1]}; draw it again"
        )
    if not part.any():
        raise UserError(f"{place}: the mask is empty; draw it again or remove it")
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = part
    return mask


def find_labelme(folder: Path) -> list[str]:
    """Return the names of the JSON files below a folder that are LabelMe's, or are meant to be; tell of the others."""
    names = find_files(folder, (JSON,))
    find = FileFinder(folder)
    found = [name for name in names if is_labelme(folder / name) or _is_meant(folder / name, find)]
    if others := sorted(set(names) - set(found)):
        log.warning("%s: %s not of LabelMe, left out: %s", folder, counted(len(others), "file"), listed(others, most=3))
    return found


def _is_meant(file: Path, find: FileFinder) -> bool:
    """Return whether a JSON file that cannot be used stands for annotations, which must not be lost without a word."""
    stem = os.path.splitext(file.relative_to(find.folder).as_posix())[0]
    if any(find(stem + ending) is not None for ending in COMMON_EXTENSIONS):
        return True
    try:
        return '"shapes"' in read_text(file, REMEDY)
    except UserError:
        return True


def is_labelme(file: Path) -> bool:
    """Return whether a JSON file is LabelMe's."""
    try:
        read_json(file, SHAPES, REMEDY)
    except UserError:
        return False
    return True


def read_labels(folder: Path, names: Sequence[str]) -> list[frozenset[str]]:
    """Return the labels of the classes that each file shows.

    Raises:
        UserError: A file is none of LabelMe's, or a shape has no area.
    """

    def read(name: str) -> frozenset[str]:
        file = folder / name
        return frozenset(s["label"] for _, s, _ in labeled_shapes(file, read_json(file, SHAPES, REMEDY)))

    return map_in_threads(read, names, "Reading annotations")


def read_labelme(
    folder: Path, names: Sequence[str], labels: Sequence[frozenset[str]], class_names: Sequence[str]
) -> list[AnnotatedImage]:
    """Return the images of JSON files, by name.

    Args:
        folder: Where the files are.
        names: Of the files in the folder.
        labels: Of each file, see `read_labels`.
        class_names: Names of all classes.

    Raises:
        UserError: A label is no class, or an image is missing.
    """
    ids = {label: class_id for class_id, label in enumerate(class_names)}
    for name, found in zip(names, labels, strict=True):
        if unknown := sorted(found - set(ids)):
            raise UserError(
                f"{folder / name}: unknown label {shortened(unknown[0])!r}; must be one of {listed(class_names)}, see "
                "class_names"
            )
    images = _find_images(folder, names)
    samples = [
        AnnotatedImage(
            image.relative_to(folder).as_posix() if isinstance(image, Path) else name,
            image,
            frozenset(ids[label] for label in found),
            LabelMeFile(folder / name, tuple(class_names)),
        )
        for name, image, found in zip(names, images, labels, strict=True)
    ]
    return sorted(samples, key=lambda sample: sample.name)


def _find_images(folder: Path, names: Sequence[str]) -> list[ImageFile]:
    """Return the image of each file: that beside it which it names, or is called like it, or the one inside of it."""
    renamed: list[str] = []
    find = FileFinder(folder)

    def image_of(name: str) -> ImageFile:
        file = folder / name
        stated = PureWindowsPath(read_json(file, SHAPES, REMEDY).get("imagePath") or "").as_posix()
        parent, stem = os.path.dirname(name), os.path.splitext(name)[0]
        beside = os.path.normpath(os.path.join(parent, stated))
        if stated and not beside.startswith("..") and (found := find(beside)) is not None:
            return found
        for other in (os.path.join(parent, os.path.basename(stated)), *(stem + end for end in COMMON_EXTENSIONS)):
            if (found := find(other)) is not None and not ends_with(found.name, JSON):
                renamed.append(name)
                return found
        if read_json(file, EMBEDDED, REMEDY).get("imageData"):
            return LabelMeImage(file)
        raise UserError(f"{file}: no image {folder / parent / stated}, and none is inside (imageData); add the image")

    images = [image_of(name) for name in names]
    used = {image for image in images if isinstance(image, Path)}
    if without := [name for name in find_image_files(folder) if folder / name not in used]:
        log.warning(
            "%s: %s without a JSON file, left out: %s",
            *(folder, counted(len(without), "image"), listed(without, most=3)),
        )
    if renamed:
        log.warning(
            "%s: imagePath of %s leads nowhere; the image beside it is taken: %s",
            *(folder, counted(len(renamed), "file"), listed(renamed, most=3)),
        )
    return images
