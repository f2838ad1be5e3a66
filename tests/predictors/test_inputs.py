"""Images as people have them give the pixels that the data modules read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
