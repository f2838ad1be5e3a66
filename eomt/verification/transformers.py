"""The audit for transformers' Trainer, and those that derive from it (TRL's, for example)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eomt.verification.findings import AuditReport
from eomt.verification.passes import Loss, Outputs
from eomt.verification.training import FLOOR, Reopen, TrainingAudit, first_batch, on_device


class AuditCallback(TrainerCallback):
    """Audits a training before its first step, every so many steps, after it was saved, and at its end.

    Args:
        batch: A training batch; None takes the first samples of the training data.
        loss: See `eomt.verification.audit`; None takes the model's own.
        outputs: See `eomt.verification.audit`.
        expect: See `eomt.verification.audit`.
        allow_random_base: See `eomt.verification.audit`.
        every: Steps between two light checks; 0 makes none.
        floor: The least that adapters must change the answers, as a share of the largest.
        warn: Log faults, and do not stop.
        reopen: Returns a fresh base into which a saved checkpoint folder was read; None does not check what is saved.

    Attributes:
        reports: Name of each check -> its report.
    """

    def __init__(
        self,
        batch: Any = None,
        loss: Loss | None = None,
        outputs: Outputs | None = None,
        expect: Iterable[str] | str | None = None,
        allow_random_base: bool = False,
        every: int = 100,
        floor: float = FLOOR,
        warn: bool = False,
        reopen: Reopen | None = None,
    ) -> None:
        self._batch, self._reopen = batch, reopen
        self._settings: dict[str, Any] = {
            "loss": loss,
            "outputs": outputs,
            "expect": expect,
            "allow_random_base": allow_random_base,
            "every": every,
            "floor": floor,
            "warn": warn,
        }
        self._audit: TrainingAudit | None = None

    @property
    def reports(self) -> dict[str, AuditReport]:
        """Name of each check -> its report."""
        return self._audit.reports if self._audit else {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
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
        self._audit = TrainingAudit(model, batch, optimizers, **self._settings)
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
