"""Supervisely's JSON annotations of an image: objects with a title and a small bitmap at a place of its own."""

import base64
import binascii
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eomt.errors import UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_titles(file: Path) -> list[str]:
    """Return the class titles of a file's objects, in order.

    Raises:
        UserError: The file is no such JSON.
    """
    content = _read(file)
    _size(content, file)
    return [_title(found, f"{file}: object {number}") for number, found in enumerate(content["objects"])]


def read_objects(file: Path, image_size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Return each object's class title and its mask, (H, W) bool of the whole image.

    Args:
        file: JSON with `size` (`height`, `width`) and `objects`, each with `classTitle` and `bitmap`: `data`, a PNG
            in base64, with or without zlib, and `origin`, the column and row of its top left pixel.
        image_size: Height and width of the image, which `size` must equal.

    Raises:
        UserError: The file is no such JSON, or an object's bitmap is damaged, empty or leaves the image.
    """
    content = _read(file)
    size = _size(content, file)
    if size != image_size:
        raise UserError(
            f"{file}: size {size[0]} x {size[1]} (height x width) for an image of {image_size[0]} x {image_size[1]}; "
            "make them the same size"
        )
    objects = []
    for number, found in enumerate(content["objects"]):
        source = f"{file}: object {number}"
        objects.append((_title(found, source), _full_mask(found, size, source)))
    return objects


def decode_bitmap(data: str, source: str) -> np.ndarray:
    """Decode a PNG in base64, with or without zlib, to (h, w) bool.

    Where the PNG has transparency (RGBA, or a transparent palette entry), what is not fully transparent belongs to
    the object; else what is not black.

    Args:
        data: The text.
        source: File and object, for messages.

    Raises:
        UserError: It is no base64, or holds no PNG.
    """
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{source}: bitmap.data is not base64 ({error}); export the annotation again") from error
    try:
        if not content.startswith(PNG_SIGNATURE):
            content = zlib.decompress(content)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.has_transparency_data:
                return np.asarray(image.convert("RGBA"))[..., 3] > 0
            return np.asarray(image.convert("RGB")).max(axis=-1) > 0
    except (zlib.error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: bitmap.data holds no PNG ({reason}); export the annotation again") from error


def _full_mask(found: dict[str, Any], size: tuple[int, int], source: str) -> np.ndarray:
    bitmap = found.get("bitmap")
    if not isinstance(bitmap, dict) or not isinstance(bitmap.get("data"), str):
        kind = found.get("geometryType", "unknown")
        raise UserError(f"{source}: no bitmap (geometryType {kind}); convert objects to bitmaps in Supervisely")
    origin = bitmap.get("origin")
    if not isinstance(origin, list) or len(origin) != 2 or not all(type(value) is int for value in origin):
        raise UserError(f"{source}: bitmap.origin {origin}; must be [column, row] in whole pixels")
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


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); export the annotation again") from error
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list) or not all(isinstance(found, dict) for found in objects):
        raise UserError(f"{file}: no list of 'objects'; give Supervisely's JSON, one file an image")
    return content


def _size(content: dict[str, Any], file: Path) -> tuple[int, int]:
    size = content.get("size")
    if not isinstance(size, dict) or not all(type(size.get(side)) is int for side in ("height", "width")):
        raise UserError(f"{file}: size {size}; must hold height and width in whole pixels")
    return size["height"], size["width"]


def _title(found: dict[str, Any], source: str) -> str:
    title = found.get("classTitle")
    if not isinstance(title, str) or not title:
        raise UserError(f"{source}: no classTitle; name the object's class")
    return title
