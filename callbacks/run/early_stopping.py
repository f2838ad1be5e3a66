"""Stops a run whose validation no longer improves."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from callbacks.run.run_folder import metric_value


class EarlyStoppingOnIoU(EarlyStopping):
    """Lightning's EarlyStopping with the SAM2 guide's settings.

    Args:
        monitor: the metric that is watched.
        patience: validations without an improvement before the run stops.
        min_delta: an improvement must exceed the best so far by more than this.
        mode: max, or min for errors.
    """

    def __init__(self, monitor: str = "val_iou", patience: int = 7, min_delta: float = 1e-4, mode: str = "max") -> None:
        # patience counts validations, wherever in an epoch they fall
        super().__init__(monitor, min_delta, patience, mode=mode, verbose=False, check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            # data to test on alone may have no such figure
            return
        metric_value(trainer, self.monitor, type(self).__name__)
        super().on_validation_end(trainer, pl_module)
