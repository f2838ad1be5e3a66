"""The audit for any LightningModule."""

import inspect
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from eomt.errors import UserError
from eomt.utils.arguments import described
from eomt.verification.callback_settings import AuditSettings, first_batch
from eomt.verification.schedules import Schedule
from eomt.verification.training import TrainingAudit


class AuditCallback(AuditSettings, Callback):
    """Audits a training before its first step, every so many steps, and at its end.

    See `AuditSettings` for its arguments. The loss is that of `training_step` unless one is given, and the answer the
    loss. `reopen` gets the path of a checkpoint, which is written for this at the end.
    """

    _step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the module.

        Raises:
            AuditError: There is a fault.
            UserError: The module steps its optimizers itself, and no loss is given.
        """
        loss = self._settings["loss"] or _training_loss
        if not pl_module.automatic_optimization and loss is _training_loss:
            raise UserError("loss: the module optimizes by hand, so that its training_step cannot be audited; give one")
        batch = self._batch
        if batch is None:
            batch = first_batch(trainer.train_dataloader, pl_module.device)
        batch = trainer.strategy.batch_to_device(batch)
        self._step = trainer.global_step
        outputs = self._settings["outputs"] or (lambda module, batch: loss(module, batch).reshape(1))
        settings = self._settings | {"loss": loss, "outputs": outputs}
        self._audit = TrainingAudit(pl_module, batch, trainer.optimizers, schedulers=schedules(trainer), **settings)
        with trainer.precision_plugin.forward_context():
            self._audit.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Check what moved, after a step of the optimizer.

        Raises:
            AuditError: There is a fault.
        """
        if self._audit is not None and trainer.global_step > self._step:
            self._step = trainer.global_step
            with trainer.precision_plugin.forward_context():
                self._audit.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the trained module, and what its checkpoint gives back.

        Raises:
            AuditError: There is a fault.
        """
        if self._audit is None:
            return
        with trainer.precision_plugin.forward_context():
            self._audit.end()
        if self._reopen is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "audit.ckpt"
                trainer.save_checkpoint(path)
                self._audit.saved(self._read_back(path, self._audit))


def schedules(trainer: Trainer) -> list[Schedule]:
    """Return the learning-rate schedules of a training, with the steps that are left of each."""
    found = []
    for config in trainer.lr_scheduler_configs:
        total = trainer.max_epochs if config.interval == "epoch" else trainer.estimated_stepping_batches
        done = trainer.current_epoch if config.interval == "epoch" else trainer.global_step
        is_known = total is not None and 0 <= total < math.inf
        steps = int(((total or 0) - done) // max(1, config.frequency)) if is_known else None
        found.append(Schedule(config.scheduler, steps))
    return found


def _training_loss(module: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a training step without a trace in the logs."""

    def drop(*_: Any, **__: Any) -> None:
        return None

    assert isinstance(module, LightningModule)
    vars(module).update(log=drop, log_dict=drop)
    kept = [(metric, _state_of(metric)) for metric in module.modules() if isinstance(metric, Metric)]
    try:
        # as Lightning does, which gives the index only to those that ask for it
        indexed = len(inspect.signature(module.training_step).parameters) > 1
        found: Any = module.training_step(*((batch, 0) if indexed else (batch,)))
    finally:
        del module.log, module.log_dict
        for metric, state in kept:
            vars(metric).update(state)
    loss = found.get("loss") if isinstance(found, dict) else found
    if not isinstance(loss, Tensor):
        raise UserError(f"loss: training_step returns {described(found)}; return the loss, or give loss=")
    return loss


def _state_of(metric: Metric) -> dict[str, Any]:
    """Return a copy of what a metric has gathered, which a step of training adds to."""
    names = [*metric._defaults, "_computed", "_forward_cache", "_update_count"]
    copies = torch.utils._pytree.tree_map_only(Tensor, lambda value: value.detach().clone(), vars(metric))
    return {name: copies[name] for name in names if name in copies}
