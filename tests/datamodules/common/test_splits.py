import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.common.pairs import find_pairs
from datamodules.common.splits import read_split_record, seeded_split
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_pair, write_split

NAMES = [f"{number}.png" for number in range(40)]


def test_seeded_split_is_disjoint_complete_and_as_large_as_asked() -> None:
    record = seeded_split(NAMES, 0.15, 0.25, 0)
    assert sorted(name for part in record.values() for name in part) == sorted(NAMES)
    assert {split: len(part) for split, part in record.items()} == {"train": 24, "val": 6, "test": 10}


def test_seeded_split_depends_on_seed_and_names_alone() -> None:
    assert seeded_split(NAMES, 0.15, 0.15, 0) == seeded_split(NAMES[::-1], 0.15, 0.15, 0)
    assert seeded_split(NAMES, 0.15, 0.15, 0) != seeded_split(NAMES, 0.15, 0.15, 1)


def test_small_fractions_give_one_image_and_zero_gives_none() -> None:
    record = seeded_split(NAMES[:3], 0.01, 0.0, 0)
    assert (len(record["val"]), record["test"]) == (1, [])


def test_pairs_are_found_in_folders_by_stem(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.PNG", "2.bmp"):
        write_pair(tmp_path, name, np.zeros((4, 4), np.uint8))
    for hidden in (tmp_path / "images" / "._2.png", tmp_path / "images" / ".trash" / "3.png"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_text("")
    (tmp_path / "images" / "notes.txt").write_text("")
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks", None, None)
    assert sorted(pair.name for pair in pairs) == ["2.bmp", "a/1.png", "b/1.PNG"]
    for pair in pairs:
        assert pair.image == tmp_path / "images" / pair.name
        assert pair.mask == (tmp_path / "masks" / pair.name).with_suffix(".png")
        assert pair.mask.is_file()


def test_pairs_are_found_by_suffixes(tmp_path: Path) -> None:
    for folder, endings in {"images": ["_leftImg8bit.png"], "masks": ["_gt_labelIds.png", "_gt_color.png"]}.items():
        (tmp_path / folder / "ulm").mkdir(parents=True)
        for ending in endings:
            (tmp_path / folder / "ulm" / f"7{ending}").write_text("")
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks", "_leftImg8bit.png", "_gt_labelIds.png")
    assert (pair.name, pair.mask) == ("ulm/7_leftImg8bit.png", tmp_path / "masks/ulm/7_gt_labelIds.png")


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        (["masks/1.png", "masks/2.png"], [], r"images/1\.png: no mask .*masks/1\.png \(2 of 4 images.*mask_suffix"),
        (["images/3.png"], [], r"masks/3\.png: no image belongs to it \(1 of 4 masks"),
        ([], ["images/1.jpg"], r"images/1\.png: shares its mask 1\.png with 1\.jpg"),
        ([f"images/{n}.png" for n in range(4)], [], "images: no file ends with"),
    ],
)
def test_files_without_a_partner_are_refused(tmp_path: Path, remove: list[str], add: list[str], message: str) -> None:
    write_split(tmp_path)
    for name in remove:
        (tmp_path / name).unlink()
    for name in add:
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        find_pairs(tmp_path / "images", tmp_path / "masks", None, None)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="masks: no such folder"):
        find_pairs(tmp_path / "images", tmp_path / "masks", None, None)


def test_recorded_split_is_read_back(tmp_path: Path) -> None:
    record = seeded_split(NAMES, 0.15, 0.0, 3)
    (tmp_path / "splits.json").write_text(json.dumps(record))
    assert read_split_record(tmp_path / "splits.json", NAMES) == record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a", "x"], "val": ["b"]}', r"x is not on disk \(1 of 3 names"),
        ('{"train": ["a", "b"], "val": ["a"]}', "a stands there twice"),
        ('{"training": ["a", "b"]}', "training is 'training', but must be 'train', 'val' or 'test'"),
        ('{"train": "ab"}', "train is 'ab', but must be a valid array; give the splits.json"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_split_record(tmp_path / "splits.json", ["a", "b"])


def test_files_that_a_record_does_not_name_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "splits.json").write_text('{"train": ["a"], "val": ["c"]}')
    assert read_split_record(tmp_path / "splits.json", ["a", "b", "c"]) == {"train": ["a"], "val": ["c"], "test": []}
    assert "1 images on disk are in no split and left out (b, ...)" in caplog.text
