"""What is kept for open pages is bounded."""

from pathlib import Path

import pytest
import torch

from eomt.demo.sessions import MOST_KEPT, Kept, Sessions
from eomt.demo.uploads import Upload
from eomt.errors import UserError
from eomt.predictors.inputs import NamedImage

IMAGE = Upload(NamedImage(torch.zeros(3, 2, 2, dtype=torch.uint8), "image.png"))


def test_the_page_that_rested_longest_is_forgotten_with_its_files(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, most=2)
    first = sessions.start("first", IMAGE)
    first.folder.mkdir()
    sessions.start("second", IMAGE)
    assert sessions.of("first") is first
    sessions.start("third", IMAGE)
    with pytest.raises(UserError, match="send one"):
        sessions.of("second")
    assert sessions.of("first") is first
    sessions.start("fourth", IMAGE)
    sessions.start("fifth", IMAGE)
    assert len(sessions) == 2
    assert not first.folder.exists()


def test_a_page_has_one_image_and_its_key_names_no_folder(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "files")
    first = sessions.start("../../key", IMAGE)
    first.results["asked"] = 1
    second = sessions.start("../../key", IMAGE)
    assert not second.results
    assert len(sessions) == 1
    assert second.folder.parent == tmp_path / "files"
    sessions.forget("../../key")
    sessions.forget("never there")
    assert len(sessions) == 0


def test_only_the_newest_answers_are_kept() -> None:
    kept = Kept()
    for number in range(5):
        kept[number] = number
    kept[4] = 4
    assert list(kept) == [3, 4]
    assert len(kept) == MOST_KEPT


def test_large_images_make_room_for_each_other(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, most_pixels=9)
    for key in ("first", "second", "third"):
        sessions.start(key, IMAGE)
    assert len(sessions) == 2
    sessions.start("large", Upload(NamedImage(torch.zeros(3, 5, 5, dtype=torch.uint8), "large.png")))
    assert len(sessions) == 1
    assert sessions.of("large").upload.name == "large.png"
