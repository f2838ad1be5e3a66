"""The folder of a run, and the metrics of its validations."""

import logging
import re
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from lightning.pytorch import Trainer

from eomt.errors import UserError, listed, shortened
from eomt.utils.files import is_empty

log = logging.getLogger("eomt")

# what `predict` writes into
PREDICTIONS = "predictions"


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder, which is the same on all ranks."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


def set_aside(trainer: Trainer, folder: Path) -> None:
    """Rename a folder that an earlier command filled, so that its files are not mixed with those of this one.

    All processes wait until it is done.
    """
    if trainer.is_global_zero and folder.is_dir():
        _rename(folder)
    trainer.strategy.barrier()


def make_room(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Rename what lies in the place of a folder that a run is about to write, if somebody put a file of theirs there.

    Args:
        folder: That is written next.
        is_ours: Returns whether a folder holds what a run writes there and nothing else, so that it can be replaced.
    """
    if folder.exists() and not is_empty(folder) and not is_ours(folder):
        _rename(folder)


def remove_folder(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Remove a folder in whose place a run has written a better one, unless somebody put a file of theirs into it.

    Args:
        folder: It need not exist.
        is_ours: As for `make_room`.
    """
    if folder.is_symlink() or (folder.is_dir() and not is_empty(folder) and not is_ours(folder)):
        log.info("%s: is kept, since it holds more than the run has written there", folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _rename(folder: Path) -> None:
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in count(1))
    earlier = next(path for path in numbered if not path.exists())
    folder.rename(earlier)
    log.info("%s: what was there is kept in %s", folder, earlier.name)


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the validation that just ended."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}


def metric_value(trainer: Trainer, monitor: str, who: str) -> float:
    """Return the value of a metric that a callback watches.

    Args:
        trainer: The trainer.
        monitor: Name of the metric.
        who: Name of the callback, for the message.

    Raises:
        UserError: If the task does not log the metric.
    """
    metrics = trainer.callback_metrics
    if monitor not in metrics:
        known = listed(sorted(name for name in metrics if name.startswith("val_") and "/" not in name))
        raise UserError(f"{who}: monitor: {monitor!r} is not logged; there are: {known}")
    return float(metrics[monitor])


def saved_name(name: object, prefix: str, suffix: str = "") -> str:
    """Return the name of a file or folder of a run that a checkpoint holds, which a better one will replace.

    Args:
        name: As it stands in the checkpoint; "" for none.
        prefix: With which such names begin.
        suffix: With which they end.

    Raises:
        UserError: If it is another name: whoever made the checkpoint could have anything removed.
    """
    if name == "" or (isinstance(name, str) and re.fullmatch(rf"{prefix}_step[\w.+-]+{re.escape(suffix)}", name)):
        return name
    raise UserError(
        f"ckpt_path: {shortened(str(name))!r} is no name of a file that a run saves; give another checkpoint"
    )
