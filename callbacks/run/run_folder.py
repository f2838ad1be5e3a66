"""The folder of a run, and the metrics of its validations."""

from pathlib import Path

from lightning.pytorch import Trainer

from eomt.errors import UserError, listed


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder, which is the same on all ranks."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


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
