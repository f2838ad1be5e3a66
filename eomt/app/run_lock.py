"""The lock of a run's folder: two trainings never write into one, nor do two commands that predict."""

import contextlib
from pathlib import Path
from typing import IO

from eomt.errors import UserError

try:
    import fcntl
except ImportError:
    # Windows has no such locks; there every folder counts as free
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PREDICT_LOCK = ".predict.lock"
SWEEP_LOCK = ".sweep.lock"
# what a lock keeps others from
OTHERS = {LOCK: "training", PREDICT_LOCK: "predict", SWEEP_LOCK: "sweep"}


class RunLock:
    """A lock that a command holds on the folder of a run; the system frees it when the process ends, however.

    Args:
        folder: Folder of the run.
        name: The lock's file: those who train and those who predict are not in each other's way.

    Raises:
        UserError: If another command holds it.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.path = folder / name
        self._file: IO[bytes] | None = None
        with contextlib.suppress(FileNotFoundError, PermissionError):
            self._file = self.path.open("ab")
        if self._file is None or fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(
                f"{folder}: another {OTHERS[name]} is writing there; wait for its end, or stop it"
            ) from error
        except OSError:
            # some network drives have no locks
            pass

    def release(self) -> None:
        """Give the folder free."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
