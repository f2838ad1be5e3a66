from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from datamodules.common import values
from datamodules.common.conversion import Conversion, ConvertedImage
from datamodules.common.orientation import TURNS
from datamodules.common.reading import (
    check_image,
    image_size,
    orientation_of,
    read_image,
    read_mask,
    read_pixels,
    read_small_image,
)
from datamodules.common.values import pixel_count
from datamodules.segmentation.image_mask_folder import ImageMaskFolder
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_given_splits

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 4096, (12, 16), dtype=np.uint16)
BANDS = RANDOM.integers(0, 4096, (12, 16, 5), dtype=np.uint16)


def converted(file: Path, intensity: object = None, channels: object = None, page: object = None) -> ConvertedImage:
    conversion = Conversion.of_fields(intensity, channels, page)  # type: ignore[arg-type]
    assert conversion is not None
    return ConvertedImage(file, conversion)


def pixels(image: ConvertedImage) -> np.ndarray:
    found = read_pixels(image)
    assert check_image(image) == image_size(image) == found.shape[1:]
    return found.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_range_of_values_becomes_black_to_white(tmp_path: Path, name: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / name)
    expected = np.clip((DEEP - 100.0) / 2900, 0, 1) * 255
    found = pixels(converted(tmp_path / name, (100, 3000)))
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, -1), atol=0.51)


def test_percentiles_are_those_of_each_image(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    low, high = np.percentile(DEEP, (2, 97.5))
    found = pixels(converted(tmp_path / "a.png", "p2-p97.5"))
    np.testing.assert_allclose(found[..., 0], np.clip((DEEP - low) / (high - low), 0, 1) * 255, atol=0.51)


def test_an_image_of_one_value_is_black_and_unknown_values_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((12, 16), 7, dtype=np.uint16))
    assert not pixels(converted(tmp_path / "a.tif", "p1-p99")).any()
    values = np.where(RANDOM.random((12, 16)) < 0.3, np.nan, 2.0).astype(np.float32)
    tifffile.imwrite(tmp_path / "b.tif", values)
    np.testing.assert_array_equal(pixels(converted(tmp_path / "b.tif", (0, 2)))[..., 0], np.where(values == 2, 255, 0))


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_bands_become_red_green_and_blue(tmp_path: Path, planes: str, compression: str | None) -> None:
    stored = BANDS if planes == "contig" else np.moveaxis(BANDS, -1, 0)
    options = {"planarconfig": planes, "photometric": "minisblack", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    found = pixels(converted(tmp_path / "a.tif", (0, 4095), [4, 0, 2]))
    np.testing.assert_array_equal(found, np.round(BANDS[..., [4, 0, 2]].astype(np.float32) / 4095 * 255))
    with pytest.raises(UserError, match=r"a\.tif: has 5 bands; say which become red"):
        read_pixels(converted(tmp_path / "a.tif", (0, 4095)))
    with pytest.raises(UserError, match=r"a\.tif: has 5 bands, but channels is \[5, 5, 5\]"):
        read_pixels(converted(tmp_path / "a.tif", (0, 4095), [5]))
    with pytest.raises(UserError, match=r"a\.tif: .* bands.*channels: \[2, 1, 0\]"):
        read_pixels(tmp_path / "a.tif")


def test_near_infrared_of_eight_bits_needs_no_range(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 256, (12, 16, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(pixels(converted(tmp_path / "a.tif", None, [3, 0, 1])), values[..., [3, 0, 1]])
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(converted(tmp_path / "a.png", None, [3])), values[..., [3, 3, 3]])


def test_colors_of_sixteen_bits_keep_them_all(tmp_path: Path) -> None:
    import imagecodecs

    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(BANDS[..., :3])))
    tifffile.imwrite(tmp_path / "a.tif", BANDS[..., :3], photometric="rgb")
    expected = np.round(BANDS[..., :3].astype(np.float32) / 4095 * 255)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(pixels(converted(tmp_path / name, (0, 4095))), expected)
        with pytest.raises(UserError, match=r"values of uint16, \d+ to \d+; say which become black and white"):
            read_pixels(converted(tmp_path / name, None, [0, 1, 2]))


def test_pages_are_asked_for_and_never_cut(tmp_path: Path) -> None:
    pages = RANDOM.integers(0, 256, (3, 12, 16), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    for read in (read_image, check_image, read_mask):
        with pytest.raises(UserError, match=r"a\.tif: has 3 pages; say which one is read, such as page: 0"):
            read(tmp_path / "a.tif")
    for page in range(3):
        found = pixels(converted(tmp_path / "a.tif", page=page))
        np.testing.assert_array_equal(found, np.repeat(pages[page][..., None], 3, -1))
    with pytest.raises(UserError, match=r"a\.tif: has 3 pages, but page is 3"):
        read_pixels(converted(tmp_path / "a.tif", page=3))
    with tifffile.TiffWriter(tmp_path / "deep.tif") as file:
        for values in (BANDS, BANDS // 2):
            file.write(values, photometric="minisblack", planarconfig="contig", metadata=None)
    found = pixels(converted(tmp_path / "deep.tif", (0, 4095), [0], page=1))
    np.testing.assert_array_equal(found[..., 0], np.round((BANDS[..., 0] // 2).astype(np.float32) / 4095 * 255))


def test_small_copies_of_a_page_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((64, 64, 3), dtype=np.uint8), photometric="rgb", metadata=None)
        file.write(np.zeros((32, 32, 3), dtype=np.uint8), photometric="rgb", subfiletype=1, metadata=None)
    assert check_image(tmp_path / "a.tif") == (64, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [1, 5])
def test_values_are_turned_as_the_file_says(tmp_path: Path, orientation: int, bands: int) -> None:
    stored = BANDS[..., :bands]
    options = {"extratags": [(274, 3, 1, orientation, False)], "photometric": "minisblack", "metadata": None}
    options |= {"planarconfig": "contig"} if bands > 1 else {}
    tifffile.imwrite(tmp_path / "a.tif", stored if bands > 1 else stored[..., 0], **options)
    image = converted(tmp_path / "a.tif", (0, 4095), [0])
    expected = TURNS[orientation](np.round(stored[..., 0].astype(np.float32) / 4095 * 255))
    np.testing.assert_array_equal(pixels(image)[..., 0], expected)
    assert orientation_of(image) == orientation
    mask = (stored[..., 0] > 2000).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", image=image), TURNS[orientation](mask))


@pytest.mark.parametrize(
    ("intensity", "channels", "page", "message"),
    [
        ((5, 5), None, None, r"intensity: \[5, 5\]; give the value that becomes black, then"),
        ("p99-p1", None, None, "intensity: 'p99-p1'; give two values"),
        ("bright", None, None, "intensity: 'bright'; give two values"),
        ("p1-p101", None, None, "intensity"),
        (None, [0, 1], None, r"channels: \[0, 1\]; give the three bands"),
        (None, [], None, r"channels: \[\]"),
        (None, [0, 1, -1], None, r"channels"),
        (None, None, -1, "page: -1"),
    ],
)
def test_impossible_fields_are_named(intensity: object, channels: object, page: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Conversion.of_fields(intensity, channels, page)  # type: ignore[arg-type]


def test_folders_of_masks_take_deep_images_in_training_and_in_prediction(tmp_path: Path) -> None:
    write_given_splits(tmp_path, 2)
    for file in tmp_path.glob("*/images/*.png"):
        gray = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
        Image.fromarray(gray).save(file)
    fields = {"batch_size": 1, "crop_size": (12, 16), "num_workers": 0, "augment": False}
    with pytest.raises(UserError, match=r"more than 8 bits.*intensity: \[0, 4095\]"):
        ImageMaskFolder(tmp_path, **fields).setup("fit")
    data = ImageMaskFolder(tmp_path, **fields, intensity=(0, 4080), predict_path=tmp_path / "test" / "images")
    data.setup()
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        gray = batch["image"][0, 0].long()
        assert (gray == 40 + 60 * batch["mask"][0]).all()
    assert {int(value) for batch in data.predict_dataloader() for value in batch["image"].unique()} <= {40, 100, 160}


def test_more_than_three_channels_come_out_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    image = converted(tmp_path / "a.tif", (0, 4095), [4, 0, 2, 2])
    expected = np.round(BANDS[..., [4, 0, 2, 2]].astype(np.float32) / 4095 * 255)
    np.testing.assert_array_equal(pixels(image), expected)
    assert image.conversion.num_channels == 4
    # pictures show the first three
    np.testing.assert_array_equal(np.asarray(read_image(image)), expected[..., :3])
    assert read_small_image(image, 4).mode == "RGB"


def test_fields_of_a_configuration_are_those_of_the_data_module() -> None:
    assert Conversion.of_settings({"path": "x", "channels": None, "page": None}, "a") is None
    for intensity in ([0, 4095], (0, 4095), "p1-p99"):
        settings = {"intensity": intensity, "channels": [3, 0, 1, 2], "page": 1, "path": "x"}
        given = tuple(intensity) if isinstance(intensity, list) else intensity
        assert Conversion.of_settings(settings, "a") == Conversion.of_fields(given, [3, 0, 1, 2], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intensity": [0]}, "config: intensity is"),
        ({"intensity": [0, "a"]}, "config: intensity.1 is"),
        ({"intensity": [0, float("nan")]}, "config: intensity.1 is"),
        ({"intensity": {}}, "config: intensity is"),
        ({"channels": ["a"]}, "config: channels.0 is"),
        ({"channels": list(range(2000))}, "config: channels is"),
        ({"channels": 3}, "config: channels is"),
        ({"page": "1"}, "config: page is"),
        ({"page": True}, "config: page is"),
        ({"intensity": [5, 5]}, "intensity: "),
    ],
)
def test_forged_fields_are_refused_in_a_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        Conversion.of_settings(settings, "config")
    assert "\n" not in str(refusal.value)


def test_pixels_are_counted_before_anything_is_unpacked(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    # five bands count as those of an image and two thirds
    assert pixel_count(tmp_path / "a.tif") == 12 * 16 * 5 // 3
    tifffile.imwrite(tmp_path / "b.tif", DEEP)
    Image.fromarray(DEEP).save(tmp_path / "c.png")
    assert pixel_count(tmp_path / "b.tif") == pixel_count(tmp_path / "c.png") == 12 * 16


def test_opacity_is_no_color_and_bands_that_are_not_shown_do_not_count(tmp_path: Path) -> None:
    gray = RANDOM.integers(0, 256, (12, 16, 2), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "LA"
    found = pixels(converted(tmp_path / "a.png", (0, 255)))
    np.testing.assert_array_equal(found, np.repeat(gray[..., :1], 3, -1))
    values = BANDS.copy()
    values[..., 1] = 60000
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack", planarconfig="contig")
    shown = values[..., [0, 2, 4]]
    low, high = np.percentile(shown, (1, 99))
    found = pixels(converted(tmp_path / "b.tif", "p1-p99", [0, 2, 4]))
    np.testing.assert_allclose(found, np.clip((shown - low) / (high - low), 0, 1) * 255, atol=0.51)


def test_small_copies_of_a_page_of_bands_are_no_pages(tmp_path: Path) -> None:
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(BANDS, **options)
        file.write(BANDS[::2, ::2], subfiletype=1, **options)
    found = pixels(converted(tmp_path / "a.tif", (0, 4095), [0]))
    np.testing.assert_array_equal(found[..., 0], np.round(BANDS[..., 0].astype(np.float32) / 4095 * 255))


def test_what_unpacks_to_too_much_is_refused_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS, photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr(values, "MOST_BYTES", BANDS.nbytes - 1)
    with pytest.raises(UserError, match=rf"a\.tif: unpacks to {BANDS.nbytes} bytes, of at most {BANDS.nbytes - 1}"):
        read_pixels(converted(tmp_path / "a.tif", (0, 4095), [0]))
