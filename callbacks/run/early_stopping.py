"""Early stopping, for runs whose validation no longer improves."""

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from callbacks.run.run_folder import metric_value
from callbacks.run.saved_state import STOPPING_STATE, checked_state
from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask


class EarlyStoppingOnIoU(EarlyStopping):
    """Lightning's EarlyStopping with the SAM2 guide's settings, on the metric that selects the best checkpoint.

    For segmentation this metric is the IoU; each task defines its own in `monitor` and `mode`. Before `min_epochs` and
    `min_steps` nothing is decided: a metric that improves until then goes on.

    Args:
        monitor: Metric to watch; None takes the task's.
        patience: Number of validations without an improvement before the run stops.
        min_delta: Smallest difference from the best value that counts as an improvement.
        mode: "max", or "min" for errors; None takes the task's for its own metric, else "max".

    Raises:
        UserError: If patience or min_delta is impossible.
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 7,
        min_delta: float = 1e-4,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        if patience < 1 or min_delta < 0:
            raise UserError(f"patience, min_delta: {patience}, {min_delta}; must be at least 1 and at least 0")
        self._given_monitor, self._given_mode = monitor, mode
        # patience counts validations, wherever in an epoch they fall
        super().__init__(
            monitor or "val_iou", min_delta, patience, verbose=False, mode=mode or "max", check_on_train_epoch_end=False
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take metric and mode from the task where none were given."""
        if isinstance(pl_module, AdaptationTask) and self._given_monitor in (None, pl_module.monitor):
            self.monitor = pl_module.monitor
            self._set_mode(self._given_mode or pl_module.mode)
        super().setup(trainer, pl_module, stage)

    def _set_mode(self, mode: Literal["min", "max"]) -> None:
        if mode != self.mode:
            # Lightning's constructor sets the sign of both by the mode
            self.mode, self.min_delta, self.best_score = mode, -self.min_delta, -self.best_score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a fit that no longer improves; other commands are left alone.

        Raises:
            UserError: If the task does not log the metric.
        """
        if trainer.state.fn != "fit":
            # data that is only tested on may lack the metric
            return
        metric_value(trainer, self.monitor, type(self).__name__)
        super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what was counted; the patience stays as it is configured now.

        Raises:
            UserError: If it is none of early stopping.
        """
        found = checked_state(state_dict, STOPPING_STATE, self)
        if found["best_score"].dim():
            raise UserError("ckpt_path: the best score of its early stopping is no number; give another checkpoint")
        super().load_state_dict(found | {"patience": self.patience})
