"""The audit for transformers' Trainer, and those that derive from it (TRL's, for example)."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eomt.verification.schedules import Schedule
from eomt.verification.training import AuditSettings, TrainingAudit, first_batch, on_device


class AuditCallback(AuditSettings, TrainerCallback):
    """Audits a training before its first step, every so many steps, after it was saved, and at its end.

    See `AuditSettings` for its arguments; `reopen` gets the folder of a checkpoint.
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
        """
        assert model is not None
        device = next(model.parameters()).device
        batch = first_batch(train_dataloader, device) if self._batch is None else on_device(self._batch, device)
        optimizers = None if optimizer is None else [optimizer]
        left = state.max_steps - state.global_step if state.max_steps > 0 else None
        schedules = [] if lr_scheduler is None else [Schedule(lr_scheduler, left)]
        self._audit = TrainingAudit(model, batch, optimizers, schedulers=schedules, **self._settings)
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
        """
        if self._audit is not None and self._reopen is not None and state.is_world_process_zero:
            fresh = self._reopen(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
            self._audit.saved(fresh.to(next(self._audit.model.parameters()).device))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Audit the trained model.

        Raises:
            AuditError: There is a fault.
        """
        if self._audit is not None:
            self._audit.end()
