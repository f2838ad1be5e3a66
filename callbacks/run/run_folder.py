"""Where a run keeps its files, and how they are written: whole or not at all."""

from pathlib import Path

from lightning.pytorch import Trainer

from eomt.errors import UserError


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, the same on all ranks."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


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
