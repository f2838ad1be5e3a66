"""PNG files of colors of 16 bits, of which Pillow keeps 8."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_png

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# of a pixel, by kind of color: gray with opacity, RGB, RGB with opacity
SAMPLES = {4: 2, 2: 3, 6: 4}
DEPTH, FILTERS = 16, 5
# where a PNG says how many bits a value has, and whether it has colors
BITS, KIND = 24, 25
# of an image's values; a few bytes may unpack to any number
MOST_BYTES = 2**31


def is_deep(content: bytes) -> bool:
    """Return whether a PNG file has colors of 16 bits; gray alone Pillow reads whole."""
    return len(content) > KIND and content[BITS] == DEPTH and content[KIND] != 0


def decode_deep(content: bytes) -> np.ndarray:
    """Return the values of a PNG file, (H, W, bands) uint16.

    torchvision's decoder ends the process where a file is damaged. So it is given none: what it needs is taken out, and
    checked, and put into a new file.

    Raises:
        ValueError: The file is damaged or interlaced.
    """
    chunks = list(_chunks(content))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != struct.calcsize(">IIBBBBB"):
        raise ValueError("no header")
    width, height, depth, kind, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != DEPTH or kind not in SAMPLES or not width or not height:
        raise ValueError("not of 16 bits")
    if interlaced:
        raise ValueError("interlaced; store it without")
    row = 1 + width * SAMPLES[kind] * DEPTH // 8
    if row * height > MOST_BYTES:
        raise ValueError(f"unpacks to {row * height} bytes, of at most {MOST_BYTES}")
    try:
        packed = b"".join(data for name, data in chunks if name == b"IDAT")
        rows = zlib.decompressobj().decompress(packed, row * height)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(rows) != row * height or max(rows[::row]) >= FILTERS:
        raise ValueError("rows are missing or damaged")
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    whole = SIGNATURE + b"".join(_chunk(name, data) for name, data in parts)
    found = decode_png(torch.frombuffer(bytearray(whole), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return found.permute(1, 2, 0).numpy()


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += 12 + length


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
