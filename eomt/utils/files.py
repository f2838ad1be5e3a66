"""Files and folders that appear whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from eomt.errors import UserError, shortened

# error numbers of the operating system
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# in the names of files and folders that are not whole yet
WRITING = ".writing-"
# at the end of the name of a folder that another is about to replace
REPLACED = ".replaced"
# bytes of the longest name that file systems take
MOST_BYTES = 255
# characters of a name in that of a file which is not whole yet: of four bytes each, they leave room for the rest
MOST_CHARACTERS = 20


def fitting(path: Path) -> Path:
    """Return a path whose last part fits into a file system; a longer one is cut, and ends in a digest of its whole."""
    if len(os.fsencode(path.name)) <= MOST_BYTES:
        return path
    start, end = path.stem, f"-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{path.suffix}"
    while len(os.fsencode(start + end)) > MOST_BYTES:
        start = start[:-1]
    return path.with_name(start + end)


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
        if aside.is_dir() and not folder.exists():
            # a kill between the two renamings below left it, and there is no other copy
            os.replace(aside, folder)
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
        UserError: If the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.stem[:MOST_CHARACTERS]}{WRITING}"
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix[:MOST_CHARACTERS], dir=path.parent)
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
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise UserError(f"{path}: cannot be written ({error.strerror}); make room there") from error
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
