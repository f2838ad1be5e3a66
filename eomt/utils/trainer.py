"""What Lightning's Trainer holds without declaring it: its own classes set these attributes from elsewhere."""

from lightning.pytorch import Callback, LightningDataModule, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a trainer in their order."""
    return trainer.callbacks  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the data module that a trainer works on; None where it was given loaders, or nothing."""
    return trainer.datamodule  # type: ignore[attr-defined]


def is_trial(trainer: Trainer) -> bool:
    """Return whether a few batches are run only to see that everything works (`fast_dev_run`): nothing is written."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def steps_between_logs(trainer: Trainer) -> int:
    """Return after how many optimizer steps figures of training are logged (`log_every_n_steps`)."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]
