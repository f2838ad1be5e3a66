"""Small masks that annotations in JSON hold as text."""

import base64
import binascii
import io
import zlib

import numpy as np
from PIL import Image

from eomt.errors import UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# of a bitmap; a few bytes may unpack to any number
MOST_BYTES = 2**28


def decode_bitmap(data: str, source: str, field: str = "bitmap.data") -> np.ndarray:
    """Decode a PNG in base64, with or without zlib, to (h, w) bool.

    Where the PNG has transparency (RGBA, or a transparent palette entry), what is not fully transparent belongs to
    the object; else what is not black.

    Args:
        data: The text.
        source: File and object, for messages.
        field: Where the text stands in the object, likewise.

    Raises:
        UserError: It is no base64, or holds no PNG.
    """
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{source}: {field} is not base64 ({error}); export the annotation again") from error
    try:
        if not content.startswith(PNG_SIGNATURE):
            content = zlib.decompressobj().decompress(content, MOST_BYTES)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.has_transparency_data:
                return np.asarray(image.convert("RGBA"))[..., 3] > 0
            return np.asarray(image.convert("RGB")).max(axis=-1) > 0
    except (zlib.error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: {field} holds no PNG ({reason}); export the annotation again") from error
