"""The folder of a run, for the processes that the first one starts: Lightning runs the same command once more in each.

A run's name may hold the time, so they cannot find it by themselves. Other commands inherit the variable, too, for
example those that a notebook or a data loader starts; they are not meant.
"""

import os
from pathlib import Path

from eomt.utils.rank import rank

VARIABLE = "EOMT_RUN_FOLDER"


def share_folder(folder: Path) -> None:
    """Say where the run is, to the processes that this one will start as its ranks."""
    if rank() == 0:
        os.environ[VARIABLE] = f"{os.getpid()} {folder}"


def shared_folder() -> Path | None:
    """Return the folder of the process that started this one as a further rank of its run; None in any other."""
    process, _, folder = os.environ.get(VARIABLE, "").partition(" ")
    # Lightning numbers its processes; the first keeps 0, which a command inherits that it starts
    is_rank = rank() > 0 and process == str(os.getppid())
    return Path(folder) if is_rank else None


def forget_folder() -> None:
    """Take back what `share_folder` said."""
    os.environ.pop(VARIABLE, None)
