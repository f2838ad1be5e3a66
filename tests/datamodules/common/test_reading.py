from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.common.orientation import turned, turned_box
from datamodules.common.reading import check_image, read_image, read_mask
from eomt.errors import UserError
from tests.datamodules.common.image_files import make_mask


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"image{suffix}")
    image = read_image(tmp_path / f"image{suffix}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() > 250
    assert check_image(tmp_path / f"image{suffix}") == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
    # what TIFF 6.0 says the stored rows and columns are, undone
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "image.png")), upright[orientation])
    assert check_image(tmp_path / "image.png") == upright[orientation].shape[:2]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_deep_gray_images_are_refused_rather_than_clipped(tmp_path: Path, mode: str) -> None:
    dtype = np.uint16 if mode == "I;16" else np.int32
    Image.fromarray(np.full((4, 6), 3000, dtype=dtype)).save(tmp_path / "deep.tif")
    for read in (read_image, check_image):
        with pytest.raises(UserError, match=r"deep\.tif: grayscale image of more than 8 bits.*convert"):
            read(tmp_path / "deep.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_images_are_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"cut{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-2000])
    for read in (read_image, check_image):
        with pytest.raises(UserError, match=rf"cut\{suffix}: cannot be read") as caught:
            read(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "reason"), [(b"", "it is empty"), (b"abc", "a format that is not known")])
def test_the_reason_is_said_without_the_name_of_the_file_again(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        check_image(file)
    assert str(caught.value) == f"{file}: cannot be read as an image ({reason}); replace or remove the file"


def test_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for read in (read_image, check_image, read_mask):
        with pytest.raises(UserError, match=r"text\.png: cannot be read"):
            read(tmp_path / "text.png")


def palette_image(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    return image


@pytest.mark.parametrize(
    ("labels", "encode"),
    [
        (make_mask(), palette_image),
        (make_mask(), Image.fromarray),
        (make_mask(2), lambda labels: Image.fromarray(labels.astype(bool))),
        (make_mask().astype(np.uint16) * 1000, Image.fromarray),
        (make_mask(), lambda labels: Image.fromarray(np.stack([labels] * 3, axis=-1))),
        (make_mask(), lambda labels: Image.fromarray(labels).convert("RGBA")),
    ],
    ids=["palette", "grey", "bits", "16 bits", "equal channels", "equal channels with alpha"],
)
def test_numbers_of_an_index_mask_survive(tmp_path: Path, labels: np.ndarray, encode) -> None:
    encode(labels).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels)


def test_labels_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 70000, dtype=np.int32)).save(tmp_path / "mask.tif")
    with pytest.raises(UserError, match=r"mask\.tif: label 70000; labels from 0 to 65535"):
        read_mask(tmp_path / "mask.tif")


COLORS = [(200, 0, 0), (0, 0, 0), (0, 200, 7)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors_become_their_position(tmp_path: Path, mode: str) -> None:
    labels = make_mask()
    if mode == "P":
        # a palette in another order than class_colors
        image = Image.fromarray(2 - labels)
        image.putpalette([value for color in COLORS[::-1] for value in color])
    else:
        image = Image.fromarray(np.array(COLORS, dtype=np.uint8)[labels]).convert(mode)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", COLORS), labels)


def test_black_and_white_color_masks_are_not_taken_for_numbers(tmp_path: Path) -> None:
    labels = make_mask(2)
    for mode in ("L", "1", "RGB"):
        Image.fromarray(labels * 255).convert(mode).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", [(0, 0, 0), (255, 255, 255)]), labels)


def test_unlisted_color_is_named_with_its_pixels(tmp_path: Path) -> None:
    pixels = np.array(COLORS, dtype=np.uint8)[make_mask()]
    pixels[2, 3:6] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png: color \(1, 2, 3\) \(3 pixels\).*class_colors"):
        read_mask(tmp_path / "mask.png", COLORS)
    with pytest.raises(UserError, match=r"mask\.png: color mask.*class_colors"):
        read_mask(tmp_path / "mask.png")


def tagged(file: Path, pixels: np.ndarray, orientation: int | None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("tag", ["image", "both"])
def test_a_mask_is_turned_like_its_image(tmp_path: Path, orientation: int, tag: str) -> None:
    """15.7: whether the tag is in both files or in the image alone."""
    labels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    image = tagged(tmp_path / "image.png", np.stack([labels] * 3, axis=-1), orientation)
    mask = tagged(tmp_path / "mask.png", labels, orientation if tag == "both" else None)
    np.testing.assert_array_equal(read_mask(mask, image=image), np.asarray(read_image(image))[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("image_name", "mask_name"), [("i.tif", "m.tif"), ("i.tif", "m.png"), ("i.png", "m.tif")])
@pytest.mark.parametrize("tag", ["image", "both"])
def test_tiff_is_turned_once(tmp_path: Path, orientation: int, image_name: str, mask_name: str, tag: str) -> None:
    """15.7: Pillow turns TIFF by itself when it decodes it, and gives the turned size before."""
    labels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    image = tagged(tmp_path / image_name, np.stack([labels] * 3, axis=-1), orientation)
    mask = tagged(tmp_path / mask_name, labels, orientation if tag == "both" else None)
    seen = read_image(image)
    np.testing.assert_array_equal(read_mask(mask, image=image), np.asarray(seen)[..., 0])
    assert check_image(image) == (seen.height, seen.width)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_as_large_as_the_turned_image_was_drawn_on_that(tmp_path: Path, orientation: int) -> None:
    labels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
    image = tagged(tmp_path / "image.png", np.zeros((4, 6, 3), dtype=np.uint8), orientation)
    mask = tagged(tmp_path / "mask.png", labels, None)
    np.testing.assert_array_equal(read_mask(mask, image=image), labels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_turned_like_the_pixels_in_it(tmp_path: Path, orientation: int) -> None:
    """15.7: detectors find boxes in the pixels of the file."""
    pixels = np.zeros((10, 14), dtype=np.uint8)
    pixels[2:5, 3:9] = 1
    seen = turned(pixels, orientation)
    left, top, right, bottom = turned_box((3, 2, 9, 5), (seen.shape[0], seen.shape[1]), orientation)
    assert (right - left) * (bottom - top) == 18
    assert seen[top:bottom, left:right].all()
