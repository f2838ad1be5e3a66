"""The audit before the first step and after the last: every adapter acts and learns."""

import logging
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask
from eomt.tasks.first_batch import first_supervised
from eomt.utils.distributed import gather
from eomt.utils.modes import isolated_randomness
from eomt.utils.sharded import is_sharded
from eomt.utils.trainer import datamodule_of
from eomt.verification.findings import AuditReport
from eomt.verification.lightning import schedules

log = logging.getLogger("eomt")

# a warm-up starts at a rate of zero: after fewer steps, what was trained may be where it started
LEAST_STEPS = 10


class AdapterAudit(Callback):
    """A callback that runs `eomt.verification.audit` before the first step and after the last.

    It stops the run on a dead adapter before the first step; what is found after the last one is logged, and stands in
    the verdict. Both take the first training batch that has labels to learn from.

    Args:
        allow_random_base: Accept frozen weights that are random, as in a smoke test without pre-trained weights.

    Attributes:
        verdict: The result of the audits in one line.
    """

    def __init__(self, allow_random_base: bool = False) -> None:
        self.allow_random_base = allow_random_base
        self.verdict = "not run"
        self._batch: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the adapted network, and stop all ranks if one finds a fault.

        Raises:
            UserError: If there is a fault, or no datamodule.
        """
        assert isinstance(pl_module, AdaptationTask)
        if is_sharded(pl_module):
            # it changes and compares whole weights
            self.verdict = "not run, since weights are sharded; `inspect` audits the same config in one process"
            log.warning("Audit: %s", self.verdict)
            return
        data = datamodule_of(trainer)
        if data is None:
            raise UserError("data: null, and AdapterAudit needs a training batch; give a datamodule")
        with isolated_randomness():
            self._batch = first_supervised(pl_module, data.train_dataloader())
        batch = trainer.strategy.batch_to_device(self._batch)
        with trainer.precision_plugin.forward_context():
            found = schedules(trainer)
            report = pl_module.audit(batch, trainer.optimizers, self.allow_random_base, schedulers=found)
        report = _of_all_ranks(report)
        report.require()
        self.verdict = str(report)
        log.info("Audit: %s", self.verdict)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the trained network, once."""
        self.close(trainer, pl_module)

    def close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the trained network, if that was not done and it made enough steps; every rank must call this."""
        given, self._batch = self._batch, None
        if given is None or trainer.global_step < LEAST_STEPS:
            return
        assert isinstance(pl_module, AdaptationTask)
        batch = trainer.strategy.batch_to_device(given)
        with trainer.precision_plugin.forward_context():
            report = _of_all_ranks(pl_module.audit(batch, None, self.allow_random_base, stage="end"))
        if not report.is_sound:
            self.verdict = f"at the start {self.verdict}; at the end: {report}"
            report.require(warn=True)


def _of_all_ranks(report: AuditReport) -> AuditReport:
    """Return the report with the findings of the first rank that has a fault: one stops all of them."""
    reports = gather(list(report.findings))
    faulty = next((found for found in reports if not AuditReport(tuple(found)).is_sound), None)
    return report if faulty is None else replace(report, findings=tuple(faulty))
