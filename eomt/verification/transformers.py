"""The audit for transformers' Trainer, and those that derive from it (TRL's, for example)."""

import contextlib
import copy
import inspect
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eomt.errors import UserError, first_line
from eomt.utils.modes import evaluation_mode, isolated_randomness
from eomt.verification.callback_settings import AuditSettings, first_batch, on_device
from eomt.verification.passes import Loss, Outputs, call
from eomt.verification.restored import untouched
from eomt.verification.schedules import Schedule
from eomt.verification.training import TrainingAudit

# attributes of a Trainer that a loss only reads, and that may be lists of a whole data set
DATA = ("train_dataset", "eval_dataset")
CONTAINERS = (dict, defaultdict, list, set, deque)
# containers inside of each other, such as the figures of each mode of a trainer of TRL, that are looked into
DEPTH = 4


class AuditCallback(AuditSettings, TrainerCallback):
    """Audits a training before its first step, every so many steps, after it was saved, and at its end.

    See `AuditSettings` for its arguments. The loss is the trainer's `compute_loss` unless one is given, and the answer
    the model's own, or the loss where the model does not take the batch. `reopen` gets the folder of a checkpoint.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        """Audit the model.

        Raises:
            AuditError: There is a fault.
            UserError: The trainer's loss cannot be computed of the batch.
        """
        assert model is not None
        device = next(model.parameters()).device
        batch = first_batch(train_dataloader, device) if self._batch is None else on_device(self._batch, device)
        optimizers = None if optimizer is None else [optimizer]
        trainer = _calling_trainer()
        settings = dict(self._settings)
        if trainer is not None and settings["loss"] is None:
            settings["loss"] = _loss_of(trainer)
            settings["outputs"] = settings["outputs"] or _outputs_of(trainer, model, batch)
        left = state.max_steps - state.global_step if state.max_steps > 0 else None
        schedules = [] if lr_scheduler is None else [Schedule(lr_scheduler, left)]
        self._audit = TrainingAudit(model, batch, optimizers, schedulers=schedules, **settings)
        self._audit.start()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check what moved.

        Raises:
            AuditError: There is a fault.
        """
        if self._audit is not None:
            self._audit.step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read what was saved back into a fresh base.

        Raises:
            AuditError: It answers otherwise.
            UserError: `reopen` fails.
        """
        if self._audit is not None and self._reopen is not None and state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self._audit.saved(self._read_back(folder, self._audit))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Audit the trained model.

        Raises:
            AuditError: There is a fault.
        """
        if self._audit is not None:
            self._audit.end()


def _calling_trainer() -> Trainer | None:
    """Return the trainer that called the callback: transformers hands over all but itself."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    return None


def _loss_of(trainer: Trainer) -> Loss:
    """Return a function for the loss of a training step, which leaves no trace in what the trainer counts and logs."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        # it may take labels out of the batch
        inputs = copy.copy(batch)
        with _unchanged(trainer), trainer.compute_loss_context_manager():
            try:
                items = trainer._get_num_items_in_batch([inputs], next(model.parameters()).device)
                found: Any = trainer.compute_loss(model, inputs, num_items_in_batch=items)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                name = f"{type(trainer).__name__}.compute_loss"
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(
                    f"loss: {name} cannot take the batch ({reason}); give AuditCallback a batch as the trainer has "
                    "them, or a loss"
                ) from error
        # DataParallel gathers one of each device
        return found.mean() if isinstance(found, Tensor) and found.dim() == 1 and len(found) > 1 else found

    return loss


def _outputs_of(trainer: Trainer, model: nn.Module, batch: Any) -> Outputs | None:
    """Return a function for the answer of a model that does not take the batch itself: the loss; None where it does."""
    if type(trainer).compute_loss is Trainer.compute_loss:
        return None
    try:
        with isolated_randomness(), untouched(model, []), evaluation_mode(model), torch.no_grad():
            call(model, batch)
    except UserError:
        loss = _loss_of(trainer)
        return lambda model, batch: loss(model, batch).reshape(1)
    return None


@contextlib.contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Put the attributes of a trainer and of its state back afterwards, with what containers among them hold."""
    holders = [vars(trainer), vars(trainer.state)]
    kept = [{name: _keeper(value) for name, value in holder.items() if name not in DATA} for holder in holders]
    try:
        yield
    finally:
        for holder, keepers in zip(holders, kept, strict=True):
            for name in holder.keys() - keepers.keys() - set(DATA):
                del holder[name]
            holder.update({name: keeper() for name, keeper in keepers.items()})


def _keeper(value: Any, depth: int = DEPTH) -> Callable[[], Any]:
    """Return a function that returns a value, and fills a container with what it holds now."""
    if not depth or type(value) not in CONTAINERS:
        return lambda: value
    is_mapping = isinstance(value, dict)
    keys, parts = (list(value), list(value.values())) if is_mapping else ([], list(value))
    keepers = [_keeper(part, depth - 1) for part in parts]

    def filled() -> Any:
        values = [keeper() for keeper in keepers]
        value.clear()
        fill = value.update if isinstance(value, dict | set) else value.extend
        fill(zip(keys, values, strict=True) if is_mapping else values)
        return value

    return filled
