import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.common.bitmaps import decode_bitmap
from datamodules.defects.supervisely import read_objects, read_titles
from eomt.errors import UserError
from tests.datamodules.defects.defect_files import bits, described, encoded, write_json

SIZE = (12, 20)


def part(seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(seed).random((5, 7)) < 0.5
    mask[0, 0] = True
    return mask


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


def clear_palette(mask: np.ndarray) -> Image.Image:
    image = palette(mask)
    image.info["transparency"] = 0
    return image


def rgba(mask: np.ndarray) -> Image.Image:
    # black where the object is: alpha alone tells it
    return Image.fromarray(np.stack([np.zeros_like(mask)] * 3 + [mask], axis=-1).astype(np.uint8) * 255)


def gray(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("compress", [True, False], ids=["zlib", "no zlib"])
@pytest.mark.parametrize("encode", [bits, palette, clear_palette, rgba, gray])
def test_every_kind_of_bitmap_is_decoded(encode: Any, compress: bool) -> None:
    np.testing.assert_array_equal(decode_bitmap(encoded(part(), encode, compress), "object"), part())


def test_bitmaps_lie_at_their_origin_given_as_column_and_row(tmp_path: Path) -> None:
    objects = [described("b", part(0), [13, 7]), described("a", part(1), [0, 2])]
    file = write_json(tmp_path / "a.jpg.json", objects, SIZE)
    (first, mask), (second, other) = read_objects(file, SIZE)
    assert [first, second] == read_titles(file) == ["b", "a"]
    expected = np.zeros(SIZE, dtype=bool)
    expected[7:12, 13:20] = part(0)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(other[2:7, :7], part(1))


def spoiled(**changes: Any) -> list[dict[str, Any]]:
    good = described("a", part(), [0, 0])
    bitmap = good["bitmap"] | {key: value for key, value in changes.items() if key in ("data", "origin")}
    return [good, good | {"bitmap": bitmap} | {key: value for key, value in changes.items() if key not in bitmap}]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (spoiled(origin=[14, 0]), r"object 1: a bitmap of 5 x 7 .* at origin \[14, 0\] leaves the image of 12 x 20"),
        (spoiled(origin=[0, 8]), "object 1: .* leaves the image"),
        (spoiled(origin=[-1, 0]), "object 1: .* leaves the image"),
        (spoiled(origin=[1.5, 0]), r"objects\.1\.bitmap\.origin\.0 is 1\.5, but must be a valid integer"),
        (spoiled(data="%%%"), r"object 1: bitmap\.data is not base64"),
        (spoiled(data="abcde"), r"object 1: bitmap\.data is not base64"),
        (spoiled(data=base64.b64encode(b"hello").decode()), r"object 1: bitmap\.data holds no PNG"),
        (spoiled(data=base64.b64encode(zlib.compress(b"hello")).decode()), r"object 1: bitmap\.data holds no PNG"),
        (spoiled(data=encoded(part(), compress=False)[:64]), r"object 1: bitmap\.data holds no PNG"),
        (spoiled(data=encoded(np.zeros((3, 3), bool))), "object 1: the bitmap is empty"),
        (spoiled(bitmap=None, geometryType="polygon"), r"object 1: no bitmap \(geometryType polygon\)"),
        (spoiled(classTitle=""), r"objects\.1\.classTitle is '', but "),
    ],
)
def test_bad_objects_are_refused_in_one_line_that_names_them(
    tmp_path: Path, objects: list[dict[str, Any]], message: str
) -> None:
    file = write_json(tmp_path / "a.jpg.json", objects, SIZE)
    with pytest.raises(UserError, match=message) as caught:
        read_objects(file, SIZE)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"objects": []}', "has no size; "),
        ('{"size": {"height": 12}, "objects": []}', r"has no size\.width; "),
        ('{"size": {"height": 12, "width": 20}}', "has no objects; "),
        ("[1]", r"it is \[1\], but must be an object"),
        ("{", "cannot be read as JSON"),
        ('{"size": {"height": 20, "width": 12}, "objects": []}', "size 20 x 12 .* for an image of 12 x 20"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_objects(tmp_path / "a.json", SIZE)
