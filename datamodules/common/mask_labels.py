"""What the pixels of a mask mean: numbers, or colors of a list."""

import numpy as np
from PIL import Image

from datamodules.common.opening import DEEP_MODES
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError

Color = tuple[int, int, int]


def stored_labels(path: ImageFile, image: Image.Image, class_colors: list[Color] | None) -> np.ndarray:
    """Return the labels of an opened mask as they are stored, (H, W)."""
    if class_colors is not None:
        if image.mode in DEEP_MODES:
            raise UserError(f"{path}: mask of more than 8 bits (mode {image.mode}); class_colors wants colors")
        return _labels_of_colors(path, np.asarray(image.convert("RGB")), class_colors)
    if image.mode in ("1", "L", "P"):
        return np.array(image).astype(np.uint8, copy=False)
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    if image.mode in DEEP_MODES and image.mode != "F":
        return _labels_of_deep_mask(path, np.asarray(image))
    if image.mode in ("RGB", "RGBA"):
        return _labels_of_equal_channels(path, np.asarray(image))
    raise UserError(f"{path}: mask of mode {image.mode}; store labels as a palette, 8-bit or 16-bit gray PNG")


def _labels_of_deep_mask(path: ImageFile, values: np.ndarray) -> np.ndarray:
    outside = (values < 0) | (values > 0xFFFF)
    if outside.any():
        raise UserError(f"{path}: label {values[outside][0]}; labels from 0 to 65535 can be read")
    return values.astype(np.uint16)


def _labels_of_equal_channels(path: ImageFile, channels: np.ndarray) -> np.ndarray:
    red, green, blue = channels[..., 0], channels[..., 1], channels[..., 2]
    unequal = (red != green) | (green != blue)
    if unequal.any():
        color = tuple(int(value) for value in channels[unequal][0, :3])
        raise UserError(
            f"{path}: color mask ({int(unequal.sum())} colored pixels, the first is {color}); "
            "give masks of label ids, or list the classes' colors in class_colors where there is such a field"
        )
    return red


def _labels_of_colors(path: ImageFile, channels: np.ndarray, class_colors: list[Color]) -> np.ndarray:
    """Return each pixel's position in `class_colors`, (H, W) uint8."""
    codes = color_codes(channels)
    known = color_codes(np.array(class_colors, dtype=np.uint8))
    order = np.argsort(known)
    position = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    unknown = known[order][position] != codes
    if unknown.any():
        first = codes[unknown][0]
        color = tuple(int(value) for value in channels[codes == first][0])
        raise UserError(
            f"{path}: color {color} ({int((codes == first).sum())} pixels) is not in class_colors; "
            "add it there (and to ignore_labels by its position, if it is no class)"
        )
    return order.astype(np.uint8)[position]


def color_codes(colors: np.ndarray) -> np.ndarray:
    """Return one integer per color, (..., 3) uint8 -> (...) int32."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue
