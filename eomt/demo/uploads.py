"""Images that anybody may send: bounded, and refused in one line that names no file of the server."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.conversion import Conversion
from datamodules.common.opening import looks_like_image
from datamodules.common.values import pixel_count
from eomt.errors import UserError
from eomt.predictors.inputs import NamedImage, read

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 24_000_000
FORMATS = "give a PNG, JPEG, WebP, TIFF, BMP or GIF"
# how files of these formats begin, and as many bytes as tell a WebP
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8")
BEGINNING = 12


def begins_like_image(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a format that is taken."""
    return start.startswith(BEGINNINGS) or (start[:4] == b"RIFF" and start[8:BEGINNING] == b"WEBP")


@dataclass(frozen=True)
class Upload:
    """An image that was sent.

    Attributes:
        image: As predictors take it.
    """

    image: NamedImage

    @property
    def pixels(self) -> np.ndarray:
        """As pictures show it, uint8 RGB `(H, W, 3)`, upright."""
        return self.image.array

    @property
    def name(self) -> str:
        """Name of its file."""
        return self.image.name

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return math.prod(self.image.size)


def read_upload(path: Path, folder: Path, conversion: Conversion | None = None) -> Upload:
    """Return an image that was sent.

    Args:
        path: Where the server put it.
        folder: Where all that is sent is put.
        conversion: How its values become what the model takes; None for RGB of 8 bits.

    Raises:
        UserError: If it lies elsewhere, is no image, is damaged, or has too many bytes or pixels.
    """
    name = path.name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise UserError("image: is not there any more; send it again")
    if (size := os.path.getsize(path)) > MOST_BYTES:
        raise UserError(f"{name}: has {size / 2**20:.0f} MiB; at most {MOST_BYTES // 2**20} MiB can be sent")
    if not looks_like_image(path):
        raise UserError(f"{name}: is no image that can be read; {FORMATS}")
    try:
        if (pixels := pixel_count(path)) > MOST_PIXELS:
            raise UserError(f"{name}: has {pixels / 1e6:.0f} megapixels; at most {MOST_PIXELS // 10**6} can be sent")
        found = read(path, conversion)
    except UserError as error:
        text = str(error).replace(str(path), name)
        # Pillow names the file by its path
        if str(path.parent) in text:
            text = f"{name}: is damaged, or of a format that is not read; {FORMATS}"
        raise UserError(text) from error
    return Upload(found)
