"""The reader gives what Pillow alone gives, whichever decoder it takes."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from datamodules.common.decoding import decode_rgb
from datamodules.common.reading import read_image, read_pixels
from datamodules.common.zip_members import ZipMember
from eomt.errors import UserError


def photograph(mode: str = "RGB") -> Image.Image:
    """Return a real picture, of odd sides, so that blocks of colors reach over its edges."""
    return Image.fromarray(load_sample_images().images[0][100:147, 200:263]).convert(mode)


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def decoded(content: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(content)) as image:
        return decode_rgb(image)


@pytest.mark.parametrize("orientation", [None, *range(1, 9), 42])
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "JPEG", {"subsampling": 1}),
        ("RGB", "JPEG", {"subsampling": 2}),
        ("RGB", "JPEG", {"subsampling": 2, "progressive": True, "quality": 30}),
        ("RGB", "JPEG", {"restart_marker_blocks": 3}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        *((mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "TIFF", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", {"quality": 70}),
    ],
)
def test_pixels_are_those_of_pillow(
    tmp_path: Path, mode: str, kind: str, options: dict[str, object], orientation: int | None
) -> None:
    content = encoded(photograph(mode), kind, **options, **({} if orientation is None else {"exif": exif(orientation)}))
    # its name says nothing of what it is
    file = tmp_path / "image.dat"
    file.write_bytes(content)
    pixels = read_pixels(file)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), by_pillow(content))
    assert pixels.stride()[0] == 1
    np.testing.assert_array_equal(np.asarray(read_image(file)), by_pillow(content))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM", "TGA", "JPEG2000"])
def test_rare_formats_are_those_of_pillow(tmp_path: Path, kind: str) -> None:
    content = encoded(photograph(), kind)
    (tmp_path / "image").write_bytes(content)
    np.testing.assert_array_equal(read_pixels(tmp_path / "image").permute(1, 2, 0).numpy(), by_pillow(content))


def test_members_of_archives_are_decoded_alike(tmp_path: Path) -> None:
    content = encoded(photograph(), "JPEG", exif=exif(6))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", content)
    pixels = read_pixels(ZipMember(tmp_path / "a.zip", "a.jpg"))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), by_pillow(content))


def test_ordinary_jpeg_is_decoded_by_torchvision_and_nothing_else() -> None:
    for mode in ("L", "RGB"):
        content = encoded(photograph(mode), "JPEG")
        np.testing.assert_array_equal(decoded(content), by_pillow(content))
    for mode, kind in (("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP"), ("RGB", "TIFF")):
        assert decoded(encoded(photograph(mode), kind)) is None


def test_pillow_decodes_a_file_that_was_looked_at_in_vain() -> None:
    content = bytearray(encoded(photograph(), "JPEG"))
    with Image.open(io.BytesIO(bytes(content))) as image:
        assert decode_rgb(image) is not None
        np.testing.assert_array_equal(np.asarray(image), by_pillow(bytes(content)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_read_or_refused_as_by_pillow(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    content = encoded(photograph(), kind)
    file = tmp_path / "damaged"
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for place in random.integers(len(content), size=random.integers(3)):
            changed[place] = random.integers(256)
        changed = changed[: random.integers(len(content) * 2)]
        file.write_bytes(changed)
        try:
            expected = by_pillow(bytes(changed))
        except Exception as error:
            refused += 1
            reason = " ".join(str(error).split())
            with pytest.raises(UserError) as caught:
                read_pixels(file)
            assert "\n" not in str(caught.value)
            # the address of the opened file is part of this one, which is said in words of our own
            if not reason.startswith("cannot identify"):
                assert reason in str(caught.value)
        else:
            np.testing.assert_array_equal(read_pixels(file).permute(1, 2, 0).numpy(), expected)
    assert 50 < refused < 250
