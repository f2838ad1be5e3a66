"""Files inside zip archives, read without extraction."""

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from datamodules.common.contained import ContainedImage
from eomt.errors import UserError
from eomt.utils.reading import check_regular

# the last two: encrypted, and packed in a way that zipfile does not know, such as Deflate64
DAMAGED = (OSError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
# of an image; a few bytes of an archive may unpack to any number, but never to more than stands in its table
MOST_BYTES = 2**28


@dataclass(frozen=True)
class ZipMember:
    """A file in an archive; a value, so that it may travel to worker processes.

    Args:
        archive: The zip file.
        member: Name inside it.
    """

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    @property
    def size(self) -> int:
        """Number of bytes.

        Raises:
            UserError: The archive is damaged.
        """
        try:
            return _archive(self.archive, os.getpid(), _version(self.archive)).getinfo(self.member).file_size
        except DAMAGED as error:
            raise UserError(f"{self}: cannot be read ({error}); fetch the archive again, or extract it") from error

    def read(self) -> bytes:
        """Return the file's contents.

        Raises:
            UserError: The archive is damaged.
        """
        if self.size > MOST_BYTES:
            raise UserError(f"{self}: unpacks to {self.size} bytes, of at most {MOST_BYTES}; fetch the archive again")
        try:
            return _archive(self.archive, os.getpid(), _version(self.archive)).read(self.member)
        except DAMAGED as error:
            raise UserError(f"{self}: cannot be read ({error}); fetch the archive again, or extract it") from error


# what the readers of images and masks take
ImageFile = Path | ZipMember | ContainedImage


def member_names(archive: Path) -> list[str]:
    """Return the names of all files in an archive.

    Raises:
        UserError: It is no zip file, or a damaged one.
    """
    try:
        return [name for name in _archive(archive, os.getpid(), _version(archive)).namelist() if not name.endswith("/")]
    except DAMAGED as error:
        raise UserError(f"{archive}: cannot be read as a zip file ({error}); fetch it again, or extract it") from error


def _version(archive: Path) -> tuple[int, int]:
    """Return what changes where another archive takes the place of this one."""
    check_regular(archive, "give a zip file")
    found = archive.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=8)
def _archive(archive: Path, process: int, version: tuple[int, int]) -> zipfile.ZipFile:
    """Open an archive once per process and version: a forked worker would move the file position of its parent.

    Threads of one process may share it, as `ZipFile` locks its reads.
    """
    return zipfile.ZipFile(archive)
