"""Files and folders that appear whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from eomt.errors import UserError, shortened

# in the names of files and folders that are not whole yet
WRITING = ".writing-"
# at the end of the name of a folder that another is about to replace
REPLACED = ".replaced"
# names as `tempfile` makes them; the second are those of version 0.1
LEFTOVER = re.compile(
    rf"\..+{re.escape(WRITING)}[a-z0-9_]{{8}}(\.\w+)?|\.best_(lora|merged)_step.+\.[a-z0-9_]{{8}}|\..+{re.escape(REPLACED)}"
)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in a folder, at any depth, and had not given its name yet.

    A folder that was about to be replaced gets its name back.
    """
    for path in [path for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name)]:
        whole = path.with_name(path.name[1:].removesuffix(REPLACED))
        if path.name.endswith(REPLACED) and not whole.exists():
            path.rename(whole)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Return whether a path is a folder without anything in it."""
    return folder.is_dir() and not any(folder.iterdir())


def _check_replaceable(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    if folder.exists() and not is_empty(folder) and not is_ours(folder):
        raise UserError(f"{folder}: exists and is not what would be written there; choose another name")


def write_folder(folder: Path, write: Callable[[Path], object], is_ours: Callable[[Path], bool]) -> Path:
    """Write a folder, whole or not at all: a new one is filled beside it, which then replaces it. Return its path.

    Args:
        folder: Folder to write.
        write: Fills the new folder that it is given.
        is_ours: Returns whether a folder that exists may be replaced; an empty one may always be.

    Raises:
        UserError: If the folder exists, holds something, and `is_ours` says no, or it cannot be made.
    """
    folder = folder.resolve()
    aside = folder.with_name(f".{folder.name}{REPLACED}")
    try:
        _check_replaceable(folder, is_ours)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{WRITING}", dir=folder.parent))
    except OSError as error:
        cause = f"{error.strerror}: {shortened(str(error.filename), 80)}"
        raise UserError(f"{shortened(str(folder), 120)}: cannot be made ({cause}); choose another folder") from error
    try:
        beside.chmod(0o755)
        write(beside)
        for file in beside.rglob("*"):
            # safetensors writes files that only their owner can read
            file.chmod(0o755 if file.is_dir() else 0o644)
            _sync(file)
        if folder.exists():
            # another process may have made it while this one was filled
            _check_replaceable(folder, is_ours)
            # the old one goes when the new one is there
            os.replace(folder, aside)
        os.replace(beside, folder)
        _sync(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        if aside.exists() and not folder.exists():
            os.replace(aside, folder)
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file, whole or not at all: a new one is written beside it, which then replaces it.

    Args:
        path: File to write; folders above it are made.
        write: Writes the new file whose path it is given.

    Raises:
        UserError: If the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:100]}{WRITING}", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error.strerror}); choose another folder") from error
    beside = Path(name)
    try:
        beside.chmod(0o644)
        write(beside)
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a renaming must not come before the content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # some file systems cannot, for folders
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
