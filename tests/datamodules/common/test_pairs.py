"""Files of folders: each once, whatever links lead where."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.common.pairs import find_files, find_image_files, find_pairs
from datamodules.common.to_predict import find_images
from eomt.errors import UserError


def test_links_that_lead_back_list_no_file_twice(tmp_path: Path) -> None:
    """15.31: 41 copies of each image were trained on."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.PNG"):
        (tmp_path / "images" / name).touch()
    (tmp_path / "images" / "deep" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    assert find_files(tmp_path / "images", (".png",)) == ["a.png", "deep/b.PNG"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert find_files(tmp_path / "images", (".png",)) == ["linked/a.png"]


LATIN_1 = os.fsdecode(b"caf\xe9.png")
LISTS: dict[str, Callable[[Path], object]] = {
    "files": lambda folder: find_files(folder, (".png",)),
    "images": find_image_files,
    "images or one": lambda folder: find_images(folder, "predict_path"),
    "pairs": lambda folder: find_pairs(folder / "images", folder / "masks", None, None),
}


@pytest.mark.parametrize("name", [LATIN_1, f"{LATIN_1}/a.png"])
@pytest.mark.parametrize("found", LISTS.values(), ids=LISTS)
def test_names_that_no_record_and_no_table_could_hold_are_refused(
    tmp_path: Path, found: Callable[[Path], object], name: str
) -> None:
    """A fit wrote them into its splits.json, which no later command could read; predict wrote no answers."""
    for kind in ("images", "masks"):
        file = tmp_path / kind / name
        file.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(file)
    with pytest.raises(UserError, match=r"caf\\udce9\.png.*: is no name in UTF-8, .*; rename it"):
        found(tmp_path)


def test_other_files_may_have_any_name(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9.txt"), "a.png"):
        (tmp_path / name).touch()
    assert find_image_files(tmp_path) == ["a.png"]
