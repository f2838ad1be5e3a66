"""The one reader of images and the one reader of masks."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import StubImageFile
from torch import Tensor

from datamodules.common.decoding import decode_rgb
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError
from eomt.utils.reading import check_regular

# how files of images begin that Pillow may not open: damaged ones and a camera's own, and from the fifth byte on HEIC
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
CONTAINED = (b"ftyphei", b"ftypmif1")
# what Pillow opens and cannot decode: films
FILMS = ("MPEG",)
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
# the longer side in parts of the shorter one; the longest strips of steel or soil that are photographed have some 20
MOST_ELONGATED = 100
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

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]


@contextmanager
def _opened(path: ImageFile) -> Iterator[Image.Image]:
    """Open an image file; whatever Pillow cannot read, now or while decoding, becomes a UserError."""
    if isinstance(path, Path):
        check_regular(path, "replace or remove it")
    try:
        # not by its name, by which Pillow maps plain files into memory, and misreads TIFF that a quarter turn turns
        with path.open("rb") if isinstance(path, Path) else io.BytesIO(path.read()) as file, Image.open(file) as image:
            yield image
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove the file") from error


def looks_like_image(path: Path) -> bool:
    """Return whether a file holds an image, whatever it is called; one that cannot be read does not."""
    try:
        # a pipe would wait for whoever writes into it
        if not os.path.isfile(path):
            return False
        with path.open("rb") as file:
            start = file.read(16)
            if start.startswith(BEGINNINGS) or start[4:].startswith(CONTAINED):
                return True
            with Image.open(file) as image:
                return image.format not in FILMS and not isinstance(image, StubImageFile)
    # of what plugins make of other files
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False


def _refuse_unusable(path: ImageFile, image: Image.Image) -> None:
    if max(image.size) > MOST_ELONGATED * min(image.size):
        raise UserError(
            f"{path}: has {image.height} x {image.width} pixels; one side may be {MOST_ELONGATED} times the other, or "
            "windows over it have no end: cut it into pieces"
        )
    if image.mode in DEEP_MODES:
        raise UserError(
            f"{path}: grayscale image of more than 8 bits (mode {image.mode}); "
            "convert it to 8 bits with the range of values you want to keep"
        )


def read_pixels(path: ImageFile) -> Tensor:
    """Read an image as RGB, turned as its EXIF orientation says.

    Returns:
        (3, H, W) uint8; a pixel's colors lie side by side in memory, as torchvision resizes them fastest.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    with _opened(path) as image:
        _refuse_unusable(path, image)
        stored = decode_rgb(image)
        pixels = np.array(_upright(image, "RGB")) if stored is None else turned(stored, _orientation(image))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_image(path: ImageFile) -> Image.Image:
    """Read an image as `read_pixels` does, for Pillow.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    return Image.fromarray(read_pixels(path).permute(1, 2, 0).numpy())


def read_small_image(path: ImageFile, side: int) -> Image.Image:
    """Read an image as `read_image` does, of JPEG at a fraction of its size, at least `side` pixels each way.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    with _opened(path) as image:
        _refuse_unusable(path, image)
        image.draft(None, (side, side))
        return _upright(image, "RGB")


def read_image_with_opacity(path: ImageFile) -> Image.Image:
    """Read an image as RGBA, turned as its EXIF orientation says; without transparency it is opaque.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    with _opened(path) as image:
        _refuse_unusable(path, image)
        return _upright(image, "RGBA")


def _upright(image: Image.Image, mode: str) -> Image.Image:
    """Return an opened image in a mode, turned as its EXIF orientation says; it may be turned itself."""
    ImageOps.exif_transpose(image, in_place=True)
    # an image of the same mode would be copied
    return image if image.mode == mode else image.convert(mode)


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
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    with _opened(path) as image:
        _refuse_unusable(path, image)
        stored, orientation = _stored(image)
        if image.format == "PNG":
            image.verify()
        else:
            # only PNG has checksums; an eighth of the size, which JPEG offers, is enough to find a truncated file
            image.draft(None, (1, 1))
            image.load()
    # a quarter turn is its own inverse here
    return stored_size(stored, orientation)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels.

    Args:
        height: As stored, before any turning.
        width: As stored.
        format: "PNG", "JPEG", ...
        mode: How Pillow calls its kind of pixels: "RGB", "L", "P", ...
        compression: How the pixels are compressed, in aspects that vary apart: of JPEG its quantization tables, its
            subsampling of colors, and whether it is progressive; of WebP the codec, of TIFF the method.
        metadata: Names of what the file tells beside its pixels: EXIF, a color profile, comments, ...
    """

    height: int
    width: int
    format: str
    mode: str
    compression: tuple[str, str, str]
    metadata: tuple[str, ...]


def read_header(path: ImageFile) -> ImageHeader:
    """Return what an image file says of itself.

    Raises:
        UserError: The file is damaged.
    """
    with _opened(path) as image:
        width, height = image.size
        tables, layers = getattr(image, "quantization", None), getattr(image, "layer", [])
        codec = _webp_codec(path) if image.format == "WEBP" else str(image.info.get("compression", ""))
        compression = (
            str(tables) if tables else codec,
            str([layer[1:3] for layer in layers]),
            "progressive" if "progressive" in image.info else "",
        )
        # these two are of the compression
        metadata = tuple(sorted(map(str, image.info.keys() - {"progressive", "progression"})))
        return ImageHeader(height, width, image.format or "", image.mode, compression, metadata)


def _webp_codec(path: ImageFile) -> str:
    """Return "VP8" for a lossy, "VP8L" for a lossless WebP, "" for an animated one."""
    content = path.read_bytes() if isinstance(path, Path) else path.read()
    start = 12
    while start + 8 <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        if name.startswith(b"VP8") and name != b"VP8X":
            return name.decode().strip()
        # chunks are of an even number of bytes
        start += 8 + size + size % 2
    return ""


def orientation_of(path: ImageFile) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 without one.

    Raises:
        UserError: The file is damaged.
    """
    with _opened(path) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    # the class's own method, for PNG's would decode the whole image first
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in TURNS else 1


def _stored(image: Image.Image) -> tuple[tuple[int, int], int]:
    """Return (height, width) of the pixels in the file of an image that is not decoded yet, and its orientation."""
    orientation = _orientation(image)
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


def read_mask(path: ImageFile, class_colors: list[Color] | None = None, image: ImageFile | None = None) -> np.ndarray:
    """Read a mask as raw labels, turned as its own EXIF orientation says, else as that of its image.

    A mask without an orientation is one of its image's stored pixels, and is turned like them. Only where it lacks
    their size, as after a quarter turn, was it drawn on the turned image, and stays as it is.

    Without `class_colors` the stored numbers are the labels: palette indices, gray values, bits, or the common
    value of three equal channels. With `class_colors` every mask is read by its colors, palette and gray files
    too, and the label is the color's position in the list.

    Args:
        path: The mask.
        class_colors: Colors of the labels.
        image: File of the image that the mask is of.

    Returns:
        (H, W) array of unsigned integers.

    Raises:
        UserError: The file is damaged, is a color mask without `class_colors`, or has a color not listed.
    """
    return _read_like(path, image, lambda opened: _labels(path, opened, class_colors))


def read_color_codes(path: ImageFile, image: ImageFile) -> np.ndarray:
    """Read a mask as red + 256 green + 65536 blue, (H, W) int32, turned as `read_mask` turns it.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """

    def codes(opened: Image.Image) -> np.ndarray:
        _refuse_unusable(path, opened)
        return _codes(np.asarray(opened.convert("RGB"))[..., ::-1])

    return _read_like(path, image, codes)


def _read_like(path: ImageFile, image: ImageFile | None, pixels_of: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Return what a mask's pixels mean, (H, W), turned as its own orientation says, else as that of its image."""
    with _opened(path) as opened:
        own = _orientation(opened)
        # before the pixels are looked at, for of TIFF these are turned already
        pixels = pixels_of(opened if own == 1 else ImageOps.exif_transpose(opened))
    if own != 1 or image is None:
        return np.ascontiguousarray(pixels)
    with _opened(image) as other:
        stored, orientation = _stored(other)
    return turned(pixels, orientation if pixels.shape == stored else 1)


def _labels(path: ImageFile, image: Image.Image, class_colors: list[Color] | None) -> np.ndarray:
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
