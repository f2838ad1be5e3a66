"""Attributes of Lightning's Trainer that it does not declare, since other classes of Lightning set them."""

from lightning.pytorch import Callback, LightningDataModule, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a trainer in their order."""
    return trainer.callbacks  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the data module of a trainer; None where it was given loaders, or nothing."""
    return trainer.datamodule  # type: ignore[attr-defined]


def is_trial(trainer: Trainer) -> bool:
    """Return whether only a few batches run, as a trial that writes nothing (`fast_dev_run`)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def steps_between_logs(trainer: Trainer) -> int:
    """Return the number of optimizer steps between two logs of training metrics (`log_every_n_steps`)."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]
