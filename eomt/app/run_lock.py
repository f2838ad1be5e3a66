"""The lock of a run's folder: two trainings never write into one, and what a killed one left can be told."""

import contextlib
import re
from pathlib import Path
from typing import IO

from eomt.errors import UserError
from eomt.utils.files import WRITING

try:
    import fcntl
except ImportError:
    # Windows has no such locks; there every folder counts as free
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# adapter and merged folder of step 0 are the base as it came, and are written before the checkpoint
EARLY = re.compile(
    r"\.lock|config\.yaml|training\.log|splits\.json|metrics\.csv|timing\.csv|pictures|best_(lora|merged)_step0(_.*)?"
    rf"|\..*{WRITING}.*"
)


class RunLock:
    """A lock that a training holds on the folder of its run; the system frees it when the process ends, however.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: If another training holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._file: IO[bytes] | None = None
        with contextlib.suppress(FileNotFoundError, PermissionError):
            self._file = self.path.open("ab")
        if self._file is None or fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(f"{folder}: another training is writing there; wait for its end, or stop it") from error
        except OSError:
            # some network drives have no locks
            pass

    def release(self) -> None:
        """Give the folder free."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_abandoned(folder: Path) -> bool:
    """Return whether a training was killed in a folder before it had saved anything to go on from.

    Only then may the folder be begun again: it holds the lock and what a training writes before its first checkpoint,
    and nothing else.
    """
    if folder.is_symlink() or not (folder / LOCK).is_file():
        return False
    if not all(EARLY.fullmatch(path.name) and not path.is_symlink() for path in folder.iterdir()):
        return False
    try:
        RunLock(folder).release()
    except UserError:
        return False
    return True
