"""Folders that are written whole or not at all, whatever interrupts."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eomt.errors import UserError
from eomt.utils.files import REPLACED, WRITING, write_file, write_folder


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


def test_the_only_copy_that_a_kill_left_survives_a_write_that_fails(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "kept", fill("old"), lambda path: True)
    # as between the two renamings
    folder.rename(tmp_path / f".kept{REPLACED}")

    def fails(beside: Path) -> None:
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_folder(folder, fails, lambda path: True)
    assert (folder / "a.txt").read_text() == "old"
    write_folder(folder, fill("new"), lambda path: True)
    assert (folder / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("old")

    def write(beside: Path) -> None:
        beside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"table.csv: cannot be written \(No space left on device\); make room there"):
        write_file(tmp_path / "table.csv", write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"table.csv": "old"}
