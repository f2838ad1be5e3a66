"""Attributes of Lightning's Trainer that it does not declare, since other classes of Lightning set them."""

import math

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Timer

from eomt.errors import UserError


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a trainer in their order."""
    return trainer.callbacks  # type: ignore[attr-defined]


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the data module of a trainer; None where it was given loaders, or nothing."""
    return trainer.datamodule  # type: ignore[attr-defined]


def is_trial(trainer: Trainer) -> bool:
    """Return whether only a few batches run, as a trial that writes nothing (`fast_dev_run`)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def sees_part_of_validation(trainer: Trainer) -> bool:
    """Return whether this validation is a sanity check of its first batches, and not step 0 validated as any other."""
    return bool(trainer.sanity_checking) and not math.isinf(trainer.num_sanity_val_steps)


def steps_between_logs(trainer: Trainer) -> int:
    """Return the number of optimizer steps between two logs of training metrics (`log_every_n_steps`)."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]


def has_step_limit(trainer: Trainer) -> bool:
    """Return whether steps or epochs limit a run; else only `max_time` does."""
    return math.isfinite(trainer.estimated_stepping_batches)


def run_progress(trainer: Trainer) -> float:
    """Return the share of a run that is done, 0 to 1: of its steps or, without a limit of these, of its time.

    All ranks get the same.

    Raises:
        UserError: If nothing limits the run.
    """
    if has_step_limit(trainer):
        return trainer.global_step / max(1, int(trainer.estimated_stepping_batches))
    timer = next((callback for callback in callbacks_of(trainer) if isinstance(callback, Timer)), None)
    remaining = timer.time_remaining() if timer is not None else None
    if timer is None or remaining is None:
        raise UserError(
            "trainer.max_steps: -1, and neither max_epochs nor max_time ends the run, so the learning rate could never "
            "fall; give one of them"
        )
    elapsed = timer.time_elapsed()
    share: float = trainer.strategy.broadcast(min(1.0, elapsed / max(elapsed + remaining, 1e-9)))
    return share
