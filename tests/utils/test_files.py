"""Folders that are written whole or not at all, whatever interrupts."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eomt.utils.files import REPLACED, WRITING, remove_leftovers, write_folder


def fill(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "a.txt").write_text(text)


def test_an_error_while_a_folder_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "kept", fill("old"), lambda path: True)
    rename = os.replace

    def fails(source: str | Path, target: str | Path) -> None:
        if WRITING in str(source):
            raise OSError("no more")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no more"):
        write_folder(folder, fill("new"), lambda path: True)
    assert (folder / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_a_kill_left_is_removed_or_gets_its_name_back(tmp_path: Path) -> None:
    for name in (f".kept{REPLACED}", f".new{WRITING}abcd1234", ".best_merged_step4_iou0.5.abcd_234"):
        (tmp_path / name).mkdir()
    for name in (f".metrics{WRITING}abcd1234.csv", ".best_notes.txt", f".thesis{WRITING}2024.md", ".lock"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    # what is not named by this package is nobody's leftover
    assert left == [".best_notes.txt", ".lock", f".thesis{WRITING}2024.md", "kept"]
