"""The callbacks of a command: those of its configuration, and those that every run has."""

import logging
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar

from callbacks import (
    AdapterAudit,
    DivergenceGuard,
    EncoderOnSave,
    LoRACheckpoint,
    MergeOnSave,
    PredictionFiles,
    PredictionPictures,
    ProgressBar,
    ReportOnTest,
    RunSummary,
)
from eomt.app.save_config import SaveConfig
from eomt.app.sharded import is_sharded_strategy

log = logging.getLogger("eomt")


def run_callbacks(
    trainer: dict[str, Any], command: str | None, resolved: dict[str, Any], audit: AdapterAudit
) -> list[Callback]:
    """Return the callbacks of a command that has a run folder.

    Args:
        trainer: Arguments of the trainer; a callback that they list is not added again.
        command: Name of the command.
        resolved: The configuration that the run saves.
        audit: The audit as it is configured.
    """
    saves = trainer["enable_checkpointing"] is not False
    configured = trainer["callbacks"]
    sharded = is_sharded_strategy(trainer.get("strategy"))
    usual: list[Callback] = [*([MergeOnSave()] if saves and not sharded else []), PredictionPictures()]
    if configured is None:
        configured = usual
    callbacks = configured if isinstance(configured, list) else [configured]
    if sharded:
        callbacks = _that_can_shard(callbacks)
    if command == "fit":
        _say_what_is_missing(usual, callbacks)
    always: list[Callback] = [LoRACheckpoint()] if saves else []
    if command == "predict":
        always.append(PredictionPictures())
        callbacks = _without_earlier_pictures(callbacks)
    if command == "test":
        # behind callbacks that write tables of a test
        always.append(ReportOnTest())
    callbacks = [*callbacks, *_not_listed(always, callbacks)]
    if command == "predict":
        # an image is done when all others have written what they make of it
        callbacks = [*callbacks, *_not_listed([PredictionFiles(resolved)], callbacks)]
    first: list[Callback] = [SaveConfig(resolved), RunSummary(), DivergenceGuard(), audit]
    has_bar = any(isinstance(callback, LightningProgressBar) for callback in callbacks)
    if not has_bar and trainer["enable_progress_bar"] is not False:
        first.append(ProgressBar())
    return [*_not_listed(first, callbacks), *callbacks]


def _that_can_shard(callbacks: list[Callback]) -> list[Callback]:
    """Return callbacks without those that need all weights in one process; the log names them."""
    whole = [callback for callback in callbacks if isinstance(callback, MergeOnSave | EncoderOnSave)]
    if names := " and ".join(f"callbacks.{type(callback).__name__}" for callback in whole):
        log.warning("trainer.strategy: sharded, so %s is left out; `merge` or `export` do it afterwards", names)
    return [callback for callback in callbacks if callback not in whole]


def _without_earlier_pictures(callbacks: list[Callback]) -> list[Callback]:
    """Return callbacks with the last of several PredictionPictures alone: its arguments count."""
    pictures = [callback for callback in callbacks if isinstance(callback, PredictionPictures)]
    return [callback for callback in callbacks if callback not in pictures[:-1]]


def _say_what_is_missing(usual: list[Callback], listed: list[Callback]) -> None:
    """Log which callbacks a fit has without a list, but not with this one.

    A list that says how the model of a run is written was made with all of them in view.
    """
    missing = [f"callbacks.{type(callback).__name__}" for callback in _not_listed(usual, listed)]
    if missing and not any(isinstance(callback, MergeOnSave | EncoderOnSave) for callback in listed):
        names = " and ".join(missing)
        log.info("trainer.callbacks: the list takes the place of %s; add what you want of it", names)


def _not_listed(callbacks: list[Callback], listed: list[Callback]) -> list[Callback]:
    """Return the callbacks whose class no listed callback has."""
    return [callback for callback in callbacks if not any(isinstance(other, type(callback)) for other in listed)]
