"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eomt.errors import UserError


def write_folder(folder: Path, write: Any, is_ours: Any) -> Path:
    """Makes `folder` whole or not at all: `write` fills a folder beside it, which then takes its place.

    Raises:
        UserError: if it exists and `is_ours(folder)` is false: nobody's files are overwritten.
    """
    folder = folder.resolve()
    if folder.exists() and not is_ours(folder):
        raise UserError(f"{folder}: exists and is not what would be written there; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        beside.chmod(0o755)
        write(beside)
        for file in beside.rglob("*"):
            # safetensors makes files that only their owner can read
            file.chmod(0o755 if file.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a file beside `path`, which then takes its place.

    Raises:
        UserError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error.strerror}); choose another folder") from error
    beside = Path(name)
    try:
        beside.chmod(0o644)
        write(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
