"""Images as people have them give the pixels that the data modules read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.conversion import Conversion
from datamodules.common.reading import read_pixels
from eomt.errors import UserError
from eomt.predictors.inputs import read

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_every_form_of_an_image_has_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    alpha = np.dstack([PIXELS, np.zeros((5, 7), np.uint8)])
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    with Image.open(path) as opened:
        forms = [path, str(path), opened, PIXELS, alpha, Image.fromarray(alpha), tensor, tensor.float() / 255]
        for form in forms:
            found = read(form)
            assert found.size == (5, 7)
            np.testing.assert_array_equal(found.array, PIXELS)
    assert read(path).name == "a.png"
    assert read(PIXELS).name == ""
    gray = read(PIXELS[..., 0])
    np.testing.assert_array_equal(gray.array, np.repeat(PIXELS[..., :1], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright_from_a_file_and_from_pillow(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    with Image.open(path) as opened:
        assert torch.equal(read(opened).pixels, read_pixels(path))
    assert torch.equal(read(path).pixels, read_pixels(path))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nowhere.png", "image: nowhere.png does not exist"),
        (".", "image: . is a folder"),
        (PIXELS.astype(np.float32), "an array of float32; give uint8"),
        (PIXELS[None], r"shape \[1, 5, 7, 3\]"),
        (PIXELS[:0], r"shape \[0, 7, 3\]"),
        (np.zeros((5, 7, 2), np.uint8), r"shape \[5, 7, 2\]"),
        (torch.zeros(5, 7, 3), r"a tensor of shape \[5, 7, 3\]"),
        (torch.full((3, 5, 7), 2.0), "a tensor from 2 to 2"),
        (torch.full((3, 5, 7), float("nan")), "a tensor from nan to nan"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "torch.int64"),
        (Image.fromarray(np.zeros((5, 7), np.uint16)), "of more than 8 bits"),
        (7, "int; give a path"),
    ],
)
def test_what_is_no_image_is_said_in_one_line(image: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(image)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


DEEP = np.random.default_rng(1).integers(0, 4096, (5, 7), dtype=np.uint16)
RANGE = Conversion.of_fields((100, 4095), None, None)


def test_values_of_sixteen_bits_are_scaled_as_in_training_in_every_form(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    expected = np.round(np.clip((DEEP.astype(np.float32) - 100) / 3995, 0, 1) * 255)
    with Image.open(tmp_path / "a.png") as opened:
        for form in (tmp_path / "a.png", opened, DEEP, DEEP[..., None], DEEP.astype(np.int32), DEEP.astype(np.float32)):
            np.testing.assert_array_equal(read(form, RANGE).array, np.repeat(expected[..., None], 3, 2))
    # what came out of it is not scaled a second time
    ready = read(DEEP, RANGE)
    assert read(ready, RANGE) is ready
    assert torch.equal(read(ready.pixels, RANGE).pixels, ready.pixels)
    with pytest.raises(UserError, match="more than 8 bits"):
        read(tmp_path / "a.png")


def test_an_image_of_another_shape_than_the_rule_is_refused(tmp_path: Path) -> None:
    bands = Conversion.of_fields(None, [3, 0, 1], None)
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for form, name in ((tmp_path / "a.png", "a.png"), (PIXELS, "image"), (Image.fromarray(PIXELS), "image")):
        with pytest.raises(UserError, match=rf"{name}: has 3 bands, but channels is \[3, 0, 1\]; bands count from 0"):
            read(form, bands)
    with pytest.raises(UserError, match=r"image: values of uint16, \d+ to \d+; say which become black and white"):
        read(np.repeat(DEEP[..., None], 4, 2), bands)
    with pytest.raises(UserError, match=r"image: values of <U1 in shape \[1\]"):
        read(np.array(["a"]), bands)
