"""The one reader of images and the one reader of masks."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError

COMMON_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# of pictures that Pillow reads; not of documents, of maps of numbers (.pfm, .fits) and of icons
RARE_EXTENSIONS = (
    *(".jpe", ".jfif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".gif", ".apng", ".avif", ".avifs", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi", ".pcx", ".psd", ".sgi", ".rgb", ".rgba", ".bw", ".ras"),
)
IMAGE_EXTENSIONS = COMMON_EXTENSIONS + RARE_EXTENSIONS
# how files of images begin, whatever they are called; the last ones are of HEIC and AVIF, from the fifth byte on
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"8BPS")
CONTAINED = (b"ftyphei", b"ftypmif1", b"ftypavif")
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
# EXIF orientations that turn an image by a quarter
QUARTER_TURNS = (5, 6, 7, 8)

Color = tuple[int, int, int]


@contextmanager
def _opened(path: ImageFile) -> Iterator[Image.Image]:
    """Open an image file; whatever Pillow cannot read, now or while decoding, becomes a UserError."""
    try:
        with Image.open(path if isinstance(path, Path) else io.BytesIO(path.read())) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove the file") from error


def begins_like_image(path: Path) -> bool:
    """Return whether a file begins as those of images do; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return is_webp or start.startswith(BEGINNINGS) or start[4:].startswith(CONTAINED)


def _refuse_deep_image(path: ImageFile, image: Image.Image) -> None:
    if image.mode in DEEP_MODES:
        raise UserError(
            f"{path}: grayscale image of more than 8 bits (mode {image.mode}); "
            "convert it to 8 bits with the range of values you want to keep"
        )


def read_image(path: ImageFile) -> Image.Image:
    """Read an image as RGB, turned as its EXIF orientation says.

    Raises:
        UserError: The file is damaged or a grayscale image of more than 8 bits.
    """
    return _read_as(path, "RGB")


def read_image_with_opacity(path: ImageFile) -> Image.Image:
    """Read an image as RGBA, turned as its EXIF orientation says; without transparency it is opaque.

    Raises:
        UserError: The file is damaged or a grayscale image of more than 8 bits.
    """
    return _read_as(path, "RGBA")


def _read_as(path: ImageFile, mode: str) -> Image.Image:
    with _opened(path) as image:
        _refuse_deep_image(path, image)
        return ImageOps.exif_transpose(image).convert(mode)


def has_transparency(path: ImageFile) -> bool:
    """Return whether an image file stores how opaque its pixels are.

    Raises:
        UserError: The file is damaged.
    """
    with _opened(path) as image:
        return image.has_transparency_data


def check_image(path: ImageFile) -> tuple[int, int]:
    """Return an image's (height, width) as `read_image` would give it, at a fraction of the cost of decoding.

    Raises:
        UserError: The file is damaged or a grayscale image of more than 8 bits.
    """
    with _opened(path) as image:
        _refuse_deep_image(path, image)
        width, height = image.size
        # the class's own method, for PNG's would decode the whole image first
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS
        if image.format == "PNG":
            image.verify()
        else:
            # only PNG has checksums; an eighth of the size, which JPEG offers, is enough to find a truncated file
            image.draft(None, (1, 1))
            image.load()
    return (width, height) if turned else (height, width)


def read_mask(path: ImageFile, class_colors: list[Color] | None = None) -> np.ndarray:
    """Read a mask as raw labels.

    Without `class_colors` the stored numbers are the labels: palette indices, gray values, bits, or the common
    value of three equal channels. With `class_colors` every mask is read by its colors, palette and gray files
    too, and the label is the color's position in the list.

    Returns:
        (H, W) array of unsigned integers.

    Raises:
        UserError: The file is damaged, is a color mask without `class_colors`, or has a color not listed.
    """
    with _opened(path) as image:
        if class_colors is not None:
            if image.mode in DEEP_MODES:
                raise UserError(f"{path}: mask of more than 8 bits (mode {image.mode}); class_colors wants colors")
            return _labels_of_colors(path, np.asarray(image.convert("RGB")), class_colors)
        if image.mode in ("1", "L", "P"):
            return np.asarray(image).astype(np.uint8, copy=False)
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
    codes = _codes(channels)
    known = _codes(np.array(class_colors, dtype=np.uint8))
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


def _codes(colors: np.ndarray) -> np.ndarray:
    """Return one integer per color, (..., 3) uint8 -> (...) int32."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue
