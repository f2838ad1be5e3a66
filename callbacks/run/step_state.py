"""The state of a run between two steps, apart from weights and optimizer: where it goes on after a stop."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer import call
from torch import Tensor
from torchmetrics import Metric

from callbacks.run.saved_state import same_kind
from eomt.utils.sharded import parted, whole


@dataclass(frozen=True)
class StepState:
    """What a run goes on with after an optimizer step, or after the validation that follows one.

    A failure in the middle of the next step changes all of this (samples are drawn, figures counted), but no weight,
    until the optimizer moves them. So what is saved then is this, with the weights as they are.

    Attributes:
        step: Number of optimizer steps.
        loops: State of the trainer's loops, with the places of the samplers.
        callbacks: States of the callbacks.
        schedulers: States of the learning-rate schedulers.
        random: Random states of this process, as the libraries return them.
        metrics: States of the metrics over training batches.
        validation_due: Whether a validation follows before the next step.
    """

    step: int
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    schedulers: list[dict[str, Any]]
    random: tuple[Any, ...]
    metrics: dict[str, dict[str, Any]]
    validation_due: bool


def step_state(trainer: Trainer, validation_due: bool = False) -> StepState:
    """Return the state of a run now; no process waits for another.

    Args:
        trainer: A trainer within `on_train_batch_end` of its last callback, or `on_validation_end`.
        validation_due: Whether a validation follows before the next step.
    """
    loops = trainer._checkpoint_connector._get_loops_state_dict()
    if validation_due:
        # the batch is complete, though Lightning counts it after the callbacks: a resume validates and goes on behind
        for progress in (loops["fit_loop"]["epoch_loop.batch_progress"][part] for part in ("total", "current")):
            progress["completed"] = progress["processed"]
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    callbacks = call._call_callbacks_state_dict(trainer)
    metrics = training_metrics(trainer.lightning_module)
    return StepState(trainer.global_step, loops, callbacks, schedulers, raw_random_state(), metrics, validation_due)


def validates_next(trainer: Trainer) -> bool:
    """Return whether a validation follows the batch that ends now."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate_now(trainer: Trainer) -> None:
    """Run the validation that a stop left out."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    # else a loop that restarts at the end of an epoch takes itself for done
    loop._has_run = False
    trainer.training = True


def gradients(task: LightningModule) -> dict[str, Tensor]:
    """Return the gradients that were accumulated so far, by the names of their parameters."""
    return {name: whole(parameter.grad) for name, parameter in task.named_parameters() if parameter.grad is not None}


def restore_gradients(task: LightningModule, saved: dict[str, Tensor]) -> None:
    """Set the gradients that `gradients` returned."""
    for name, parameter in task.named_parameters():
        if name in saved:
            parameter.grad = parted(saved[name], parameter)


def training_metrics(task: LightningModule) -> dict[str, dict[str, Any]]:
    """Return the states of the metrics over training batches, whose figures are logged every few steps."""
    return {
        name: {key: _copied(getattr(metric, key)) for key in metric._defaults}
        for name, metric in task.named_children()
        if name.startswith("train") and isinstance(metric, Metric)
    }


def restore_training_metrics(task: LightningModule, states: dict[str, dict[str, Any]]) -> None:
    """Set the metrics over training batches to the states that `training_metrics` returned.

    Those of metrics that are not there, or have other states now, are left out.

    Raises:
        ValueError: If a state has another shape or type than the metric's own.
    """
    own = training_metrics(task)
    for name, state in states.items():
        metric = getattr(task, name) if name in own else None
        if metric is not None and state.keys() == own[name].keys():
            for key, value in state.items():
                if not same_kind(value, own[name][key]):
                    raise ValueError(f"{name}.{key} is of another shape or type")
                setattr(metric, key, _moved(value, metric.device))
            # else `compute` warns that nothing was counted
            metric._update_count = 1


def raw_random_state() -> tuple[Any, ...]:
    """Return the random states of torch, CUDA, NumPy and Python, as these return them."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(legacy=True), random.getstate()


def readable_random_state(raw: tuple[Any, ...]) -> dict[str, Any]:
    """Return random states in types that `weights_only=True` can read."""
    of_torch, cuda, (kind, keys, position, has_gauss, cached), (version, internal, gauss) = raw
    return {
        "torch": of_torch,
        "cuda": cuda,
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set all random states to what `readable_random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _copied(value: Any) -> Any:
    return [part.detach().clone() for part in value] if isinstance(value, list) else value.detach().clone()


def _moved(value: Any, device: torch.device) -> Any:
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
