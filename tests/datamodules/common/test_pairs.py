"""Files of folders: each once, whatever links lead where."""

from pathlib import Path

from datamodules.common.pairs import find_files


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
