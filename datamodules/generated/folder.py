"""Folders of generated files: drawn once, whole or not at all, and never over anything else."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eomt.errors import UserError


def generate_once(
    folder: Path, record_name: str, record: Mapping[str, Any], kind: str, write: Callable[[Path], None]
) -> None:
    """Fill a folder, unless it holds just this already.

    Args:
        folder: Where the files belong; it may exist if it is empty.
        record_name: JSON file in the folder that keeps the record.
        record: Settings that decide what is generated.
        kind: What is generated, for messages.
        write: Fills a new folder.

    Raises:
        UserError: The folder holds something else, or files of other settings.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _check_record(folder, record_name, record, kind)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir()
        write(unfinished)
        (unfinished / record_name).write_text(json.dumps(record, indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_record(folder: Path, record_name: str, record: Mapping[str, Any], kind: str) -> None:
    try:
        found = json.loads((folder / record_name).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"path: {folder} exists and holds no generated {kind}: give another folder")
    different = [
        f"{key} {found.get(key)} instead of {value}" for key, value in record.items() if found.get(key) != value
    ]
    if different:
        raise UserError(
            f"path: {folder} holds {kind} of {', '.join(different)}: "
            "give another folder, or delete this one to have them drawn anew"
        )
