"""Opening of image files: whatever cannot be read is told in one line."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import StubImageFile

from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted
from eomt.utils.reading import check_regular

# how files of images begin that Pillow may not open: damaged ones and a camera's own, and from the fifth byte on HEIC
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
CONTAINED = (b"ftyphei", b"ftypmif1")
# what Pillow opens and cannot decode: films
FILMS = ("MPEG",)
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
# the longer side in parts of the shorter one; the longest strips of steel or soil that are photographed have some 20
MOST_ELONGATED = 100
# a tag of TIFF, and its bit for a smaller copy of another page
NEW_SUBFILE_TYPE, REDUCED = 254, 1
# a tag of TIFF, the number of values of a pixel
SAMPLES = 277


@contextmanager
def opened(path: ImageFile) -> Iterator[Image.Image]:
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
        if is_unknown := isinstance(error, UnidentifiedImageError):
            # Pillow names the file once more
            reason = "a format that is not known" if content_of(path) else "it is empty"
        remedy = "replace or remove the file"
        if is_unknown and str(path).lower().endswith((".tif", ".tiff")):
            remedy = f"if it holds several bands, say which become RGB, channels: [2, 1, 0]; else {remedy}"
        raise UserError(f"{path}: cannot be read as an image ({reason}); {remedy}") from error


def content_of(path: ImageFile) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UserError: It is no regular file, which may never end, or cannot be read.
    """
    if not isinstance(path, Path):
        return path.read()
    check_regular(path, "replace or remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); replace or remove the file") from error


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


def page_count(image: Image.Image) -> int:
    """Return how many pages an opened TIFF has, smaller copies of a page left out; 1 of other formats."""
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count == 1:
        return 1
    full = 0
    for number in range(count):
        image.seek(number)
        tags: Any = getattr(image, "tag_v2", {})
        full += not tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED
    image.seek(0)
    return full


def refuse_page(path: ImageFile, page: int | None, count: int) -> None:
    """Raise a UserError where a file lacks a page, or has several and none is asked for."""
    if page is None and count > 1:
        raise UserError(f"{path}: has {count} pages; say which one is read, such as page: 0, or split the file")
    if page is not None and page >= count:
        raise UserError(f"{path}: has {counted(count, 'page')}, but page is {page}; pages count from 0")


def check_shape(path: ImageFile, image: Image.Image) -> None:
    """Raise a UserError for an image that is little more than a line."""
    if max(image.size) > MOST_ELONGATED * min(image.size):
        raise UserError(
            f"{path}: has {image.height} x {image.width} pixels; one side may be {MOST_ELONGATED} times the other, or "
            "windows over it have no end: cut it into pieces"
        )


def refuse_unusable(path: ImageFile, image: Image.Image) -> None:
    """Raise a UserError for an image that cannot be read as RGB of 8 bits without a word on how."""
    check_shape(path, image)
    refuse_page(path, None, page_count(image))
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if (bands := tags.get(SAMPLES, 1)) > 2 and len(image.getbands()) == 1:
        raise UserError(
            f"{path}: has {bands} bands; say which become red, green, blue where there is a field for it, such as "
            "channels: [2, 1, 0]"
        )
    if image.mode in DEEP_MODES:
        raise UserError(
            f"{path}: grayscale image of more than 8 bits (mode {image.mode}); "
            "convert it to 8 bits, or say which range of values to keep where there is a field for it: "
            "intensity: [0, 4095], or intensity: p1-p99"
        )


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Return an opened image in a mode, turned as its EXIF orientation says; it may be turned itself."""
    ImageOps.exif_transpose(image, in_place=True)
    # an image of the same mode would be copied
    return image if image.mode == mode else image.convert(mode)
