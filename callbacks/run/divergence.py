"""The end of a run whose loss, gradients or weights are not finite any more."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.utils.sharded import whole
from eomt.utils.trainer import steps_between_logs

REMEDY = "lower --model.lr, or set --trainer.gradient_clip_val 1.0"


class DivergenceError(UserError):
    """A run whose numbers are not finite: it is not saved, so that the last good checkpoint stays."""


def check_finite(task: LightningModule, step: int) -> None:
    """Check that all trained weights are finite.

    Args:
        task: The module that is trained.
        step: Number of optimizer steps, for the message.

    Raises:
        DivergenceError: If one is not.
    """
    for name, parameter in task.named_parameters():
        if parameter.requires_grad and not bool(whole(parameter.detach()).isfinite().all()):
            raise DivergenceError(f"{name}: is not finite at step {step}: the training diverged; {REMEDY}")


class DivergenceGuard(Callback):
    """A callback that looks at loss and gradients of every step, and ends the run where one is not finite.

    On a CPU it ends before the weights are touched. On a GPU the first such step is noted there without waiting for it,
    and read each `log_every_n_steps` steps.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the steps of an earlier fit."""
        self._first = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss."""
        self._note(trainer, loss.detach().isfinite().all())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradients, unless their overflow is part of fp16's scaling.

        Raises:
            DivergenceError: On a CPU, if one or the loss is not finite.
        """
        plugin = trainer.precision_plugin
        found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if found and not (isinstance(plugin, MixedPrecision) and plugin.scaler is not None):
            self._note(trainer, whole(torch.stack(torch._foreach_norm(found))).isfinite().all())
        if self._first is not None and self._first.device.type == "cpu":
            self._require(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Read from time to time what was noted.

        Raises:
            DivergenceError: If a loss or a gradient was not finite.
        """
        if trainer.global_step % steps_between_logs(trainer) == 0:
            self._require(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what was noted.

        Raises:
            DivergenceError: If a loss or a gradient was not finite.
        """
        self._require(trainer)

    def _note(self, trainer: Trainer, is_finite: Tensor) -> None:
        if self._first is None:
            self._first = torch.full((), -1, device=is_finite.device)
        self._first = torch.where(is_finite | (self._first >= 0), self._first, trainer.global_step + 1)

    def _require(self, trainer: Trainer) -> None:
        step = -1 if self._first is None else int(self._first)
        if step >= 0:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            raise DivergenceError(
                f"train_loss: it or its gradients are not finite at step {step} (rate {rate:.1e}): the training "
                f"diverged; {REMEDY}"
            )
