"""Stored values of images that are no plain RGB: 16 bits, several bands, one of several pages."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from datamodules.common.deep_png import MOST_BYTES, decode_deep, is_deep
from datamodules.common.opening import DEEP_MODES, check_shape, content_of, opened, page_count, refuse_page
from datamodules.common.orientation import TURNS, stated_orientation, turned
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError

if TYPE_CHECKING:
    import tifffile

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS_TAG, ORIENTATION_TAG = 258, 274
SEPARATE_PLANES = 2


def read_values(path: ImageFile, page: int | None) -> tuple[np.ndarray, int]:
    """Return the values of an image, turned as its orientation says, (H, W, C), and the orientation.

    Args:
        path: The file.
        page: Page of a TIFF; None where it has one alone.

    Raises:
        UserError: The file is damaged, a line of pixels, or has several pages and no page is asked for.
    """
    content = content_of(path)
    if content.startswith(TIFF_BEGINNINGS) and not _is_plain(content):
        values, orientation = _tiff_values(path, content, page)
    else:
        with opened(path) as image:
            _go_to_page(path, image, page)
            check_shape(path, image)
            orientation = stated_orientation(image)
            if image.format == "PNG" and is_deep(content):
                # whether it is damaged, by its checksums
                image.load()
                values = turned(decode_deep(content), orientation)
            else:
                values = values_of(image)
    return values if values.ndim == 3 else values[..., None], orientation


def values_of(image: Image.Image) -> np.ndarray:
    """Return the values of an opened image, turned as its orientation says, (H, W) or (H, W, bands)."""
    upright = ImageOps.exif_transpose(image)
    # palettes, and kinds of color that have no bands of their own, become RGB
    kept = upright.mode in ("L", "LA", "RGB", "RGBA", "RGBX", *DEEP_MODES)
    return np.array(upright if kept else upright.convert("RGB"))


def pixel_count(path: ImageFile) -> int:
    """Return how many pixels the largest page of an image file has, from its head; three bands count as one.

    Raises:
        UserError: The file is damaged.
    """
    content = content_of(path)
    if content.startswith(TIFF_BEGINNINGS) and not _is_plain(content):
        with _tiff_pages(path, content) as pages:
            return max((math.prod(page.shape) // min(3, max(1, page.samplesperpixel)) for page in pages), default=0)
    with opened(path) as image:
        return image.width * image.height


def _is_plain(content: bytes) -> bool:
    """Return whether Pillow gives the values of a TIFF as they are."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            tags: Any = getattr(image, "tag_v2", {})
            bits = tags.get(BITS_TAG, (1,))
            return len(bits) == len(image.getbands()) and (len(bits) == 1 or set(bits) == {8})
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False


def _go_to_page(path: ImageFile, image: Image.Image, page: int | None) -> None:
    count = page_count(image)
    refuse_page(path, page, count)
    if count > 1:
        image.seek(page or 0)


@contextmanager
def _tiff_pages(path: ImageFile, content: bytes) -> Iterator[list["tifffile.TiffPage"]]:
    """Give the pages of a TIFF, smaller copies left out; whatever tifffile cannot read becomes a UserError."""
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"{path}: a TIFF of several bands or of colors of 16 bits needs tifffile; run: pip install 'eomt[data]'"
        ) from error
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            yield [found for found in file.pages if isinstance(found, tifffile.TiffPage) and not found.is_reduced]
    except UserError:
        raise
    # whatever its parts meet in a damaged file
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as a TIFF ({reason}); replace or remove the file") from error


def _tiff_values(path: ImageFile, content: bytes, page: int | None) -> tuple[np.ndarray, int]:
    with _tiff_pages(path, content) as pages:
        refuse_page(path, page, len(pages))
        chosen = pages[page or 0]
        if chosen.nbytes > MOST_BYTES:
            raise UserError(f"{path}: unpacks to {chosen.nbytes} bytes, of at most {MOST_BYTES}; cut it")
        values = chosen.asarray()
        tag = chosen.tags.get(ORIENTATION_TAG)
        orientation = int(tag.value) if tag is not None and tag.value in TURNS else 1
        if chosen.planarconfig == SEPARATE_PLANES and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "uif":
        raise UserError(f"{path}: holds values of {values.dtype} in shape {values.shape}; give rows, columns and bands")
    return turned(values, orientation), orientation
