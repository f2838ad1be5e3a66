"""Supervisely's JSON annotations of an image: objects with a title and a small bitmap at a place of its own."""

from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.bitmaps import decode_bitmap
from eomt.errors import UserError, shortened
from eomt.utils.reading import Count, Text, Whole, read_json


class Extent(TypedDict):
    """Height and width in pixels."""

    height: Count
    width: Count


class Bitmap(TypedDict):
    """A PNG in base64, and the column and row of its top left pixel."""

    data: str
    origin: Annotated[list[Whole], Field(min_length=2, max_length=2)]


class LabeledObject(TypedDict):
    """What is read of an object; only those that are painted have a bitmap."""

    classTitle: Text
    geometryType: NotRequired[Any]
    bitmap: NotRequired[Bitmap | None]


class AnnotationFile(TypedDict):
    """What is read of a file."""

    size: Extent
    objects: list[LabeledObject]


ANNOTATION = TypeAdapter(AnnotationFile)
REMEDY = "give Supervisely's JSON, one file an image"


def read_titles(file: Path) -> list[str]:
    """Return the class titles of a file's objects, in order.

    Raises:
        UserError: The file is no such JSON.
    """
    return [found["classTitle"] for found in read_json(file, ANNOTATION, REMEDY)["objects"]]


def read_objects(file: Path, image_size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Return each object's class title and its mask, (H, W) bool of the whole image.

    Args:
        file: JSON with `size` (`height`, `width`) and `objects`, each with `classTitle` and `bitmap`: `data`, a PNG
            in base64, with or without zlib, and `origin`, the column and row of its top left pixel.
        image_size: Height and width of the image, which `size` must equal.

    Raises:
        UserError: The file is no such JSON, or an object's bitmap is damaged, empty or leaves the image.
    """
    content = read_json(file, ANNOTATION, REMEDY)
    size = (content["size"]["height"], content["size"]["width"])
    if size != image_size:
        raise UserError(
            f"{file}: size {size[0]} x {size[1]} (height x width) for an image of {image_size[0]} x {image_size[1]}; "
            "make them the same size"
        )
    return [
        (found["classTitle"], _full_mask(found, size, f"{file}: object {number}"))
        for number, found in enumerate(content["objects"])
    ]


def _full_mask(found: LabeledObject, size: tuple[int, int], source: str) -> np.ndarray:
    bitmap = found.get("bitmap")
    if bitmap is None:
        kind = shortened(str(found.get("geometryType", "unknown")))
        raise UserError(f"{source}: no bitmap (geometryType {kind}); convert objects to bitmaps in Supervisely")
    origin = bitmap["origin"]
    part = decode_bitmap(bitmap["data"], source)
    if not part.any():
        raise UserError(f"{source}: the bitmap is empty; remove the object")
    left, top = origin
    height, width = part.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"{source}: a bitmap of {height} x {width} (height x width) at origin {origin} leaves the image of "
            f"{size[0]} x {size[1]}; correct or remove the object"
        )
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = part
    return mask
