"""PNG files of 16 bits are read whole, and a damaged one never ends the process."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from datamodules.common.deep_png import decode_deep, is_deep

VALUES = np.random.default_rng(0).integers(0, 2**16, (9, 11, 4), dtype=np.uint16)


def png(values: np.ndarray, level: int = 6, strategy: int = 0) -> bytes:
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(values), level=level, strategy=strategy))


@pytest.mark.parametrize("bands", [2, 3, 4])
@pytest.mark.parametrize("smooth", [True, False])
def test_all_bits_are_read_whatever_filters_the_rows_have(bands: int, smooth: bool) -> None:
    values = VALUES[..., :bands]
    if smooth:
        # the encoder takes other filters for what changes slowly
        ramp = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)
        values = np.stack([ramp * (band + 3) for band in range(bands)], -1)
    content = png(values)
    assert is_deep(content)
    np.testing.assert_array_equal(decode_deep(content), values)


def test_images_of_eight_bits_and_gray_ones_are_none() -> None:
    assert not is_deep(png(VALUES.astype(np.uint8)))
    assert not is_deep(png(VALUES[..., 0]))
    assert not is_deep(b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ((11, 9, 16, 2, 0, 0, 1), bytes(9 * 67), "interlaced"),
        ((11, 9, 8, 2, 0, 0, 0), bytes(9 * 67), "16 bits"),
        ((0, 9, 16, 2, 0, 0, 0), b"", "16 bits"),
        ((11, 9, 16, 2, 0, 0, 0), bytes(9 * 67 - 1), "rows are missing"),
        ((11, 9, 16, 2, 0, 0, 0), b"\5" + bytes(9 * 67 - 1), "rows are missing or damaged"),
        ((2**31 - 1, 2**31 - 1, 16, 2, 0, 0, 0), b"", "unpacks to"),
    ],
)
def test_what_a_decoder_must_not_see_is_refused(header: tuple[int, ...], rows: bytes, message: str) -> None:
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), chunk(b"IDAT", zlib.compress(rows))
    with pytest.raises(ValueError, match=message):
        decode_deep(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match="no header"):
        decode_deep(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"header check|invalid"):
        decode_deep(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11, 9, 16, 2, 0, 0, 0)) +
                    chunk(b"IDAT", b"xxxx"))  # fmt: skip
