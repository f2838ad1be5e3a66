"""How images, and what lives in their pixels, are turned as EXIF says."""

from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

# EXIF orientations that turn an image by a quarter
QUARTER_TURNS = (5, 6, 7, 8)

# how stored pixels are turned, by EXIF orientation
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}

Box = tuple[int, int, int, int]


def stated_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 without one."""
    # the class's own method, for PNG's would decode the whole image first
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in TURNS else 1


def stored_and_orientation(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Return (height, width) of the pixels in the file of an image that is not decoded yet, and its orientation."""
    orientation = stated_orientation(image)
    size = (image.height, image.width)
    # of TIFF alone, Pillow gives the size of the turned image, and turns it when it decodes it
    return stored_size(size, orientation) if image.format == "TIFF" else size, orientation


def stored_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (height, width) of the pixels in a file whose image is `size` large when it is turned."""
    return size[::-1] if orientation in QUARTER_TURNS else size


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels, (H, W) or (H, W, C), as an EXIF orientation says: what lives in them follows the image."""
    # PyTorch takes no array that is read backwards
    return np.ascontiguousarray(TURNS[orientation](pixels))


def turned_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn a box (left, top, right, bottom) in stored pixels.

    Args:
        box: It may reach beyond the image.
        size: Height and width of the turned image.
        orientation: Of the image.
    """
    left, top, right, bottom = box
    height, width = size
    if orientation in QUARTER_TURNS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
