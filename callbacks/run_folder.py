"""Where a run keeps its files, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Trainer

from eomt.errors import UserError


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, the same on all ranks."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


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


def validation_metrics(trainer: Trainer) -> dict[str, float]:
    """The figures of the validation that just ended."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}


def metric_value(trainer: Trainer, monitor: str, who: str) -> float:
    """A figure that a callback watches.

    Raises:
        UserError: if the task does not log it.
    """
    metrics = trainer.callback_metrics
    if monitor not in metrics:
        known = ", ".join(sorted(name for name in metrics if name.startswith("val_") and "/" not in name))
        raise UserError(f"{who}: monitor: {monitor!r} is not logged; there are: {known}")
    return float(metrics[monitor])
