"""Images to predict: files, folders and patterns, each image once and under a name of its own."""

import logging
from pathlib import Path

import pytest

from datamodules.common.to_predict import find_images
from eomt.errors import UserError
from tests.datamodules.faces.face_files import write_face


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a/1.png", "a/deep/2.jpg", "b/1.png", "c.png")):
        write_face(tmp_path / name, number)
    (tmp_path / "a" / "notes.txt").write_text("none")
    return tmp_path


def names(found: dict[str, Path], folder: Path) -> dict[str, str]:
    return {name: file.relative_to(folder).as_posix() for name, file in found.items()}


def test_a_file_a_folder_or_a_pattern(folder: Path) -> None:
    assert names(find_images(folder / "c.png"), folder) == {"c.png": "c.png"}
    assert names(find_images(folder / "a"), folder) == {"1.png": "a/1.png", "deep/2.jpg": "a/deep/2.jpg"}
    assert names(find_images(folder / "a" / "**" / "*.jpg"), folder) == {"deep/2.jpg": "a/deep/2.jpg"}
    assert list(find_images(folder / "*.png")) == ["c.png"]
    # folders that a pattern matches stand for their images, each once
    assert list(find_images(folder / "[ab]")) == ["a/1.png", "a/deep/2.jpg", "b/1.png"]
    assert len(find_images(folder / "**")) == 4


def test_a_name_with_wildcards_that_is_there_is_no_pattern(folder: Path) -> None:
    write_face(folder / "[ab].png", 9)
    assert list(find_images(folder / "[ab].png")) == ["[ab].png"]


def test_several_of_them_keep_their_names_where_these_differ(folder: Path) -> None:
    assert list(find_images([folder / "c.png", folder / "a"])) == ["c.png", "1.png", "deep/2.jpg"]


def test_names_that_clash_become_paths_in_the_folder_that_holds_all(folder: Path) -> None:
    found = find_images([folder / "a", folder / "b"])
    assert names(found, folder) == {"a/1.png": "a/1.png", "a/deep/2.jpg": "a/deep/2.jpg", "b/1.png": "b/1.png"}


def test_an_image_that_is_given_twice_is_predicted_once_and_it_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "linked").symlink_to(folder / "b", target_is_directory=True)
    with caplog.at_level(logging.INFO, "eomt"):
        found = find_images([folder / "b", folder / "b" / "1.png", folder / "linked"])
    assert list(found) == ["1.png"]
    assert "2 images given twice, predicted once" in caplog.text


@pytest.mark.parametrize("given", ["a", "a/*"])
def test_files_that_are_no_images_are_counted_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    with caplog.at_level(logging.INFO, "eomt"):
        assert len(find_images(folder / given)) == 2
    assert "predict_path: 1 file of" in caplog.text
    assert caplog.text.rstrip().endswith("is no image and left out: notes.txt")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing/*.png", r"predict_path: .*nothing/\*\.png matches no file; check the pattern"),
        ("a/*.txt", r"matches no image, but notes\.txt"),
        ("nowhere", "nowhere is no image and no folder of images"),
    ],
)
def test_what_stands_for_no_image_is_an_error(folder: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_images([folder / "c.png", folder / given])
    with pytest.raises(UserError, match="predict_path: an empty list"):
        find_images([])
