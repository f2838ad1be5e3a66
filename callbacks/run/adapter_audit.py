"""The audit before the first step: every adapter acts and learns."""

import logging
from dataclasses import replace

from lightning.pytorch import Callback, LightningModule, Trainer

from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask
from eomt.tasks.first_batch import first_supervised
from eomt.utils.distributed import gather
from eomt.utils.modes import isolated_randomness
from eomt.utils.trainer import datamodule_of

log = logging.getLogger("eomt")


class AdapterAudit(Callback):
    """A callback that runs `eomt.verification.audit` before the first step, and stops the run on a dead adapter.

    The audit takes the first training batch that has labels to learn from.

    Args:
        allow_random_base: Accept frozen weights that are random, as in a smoke test without pre-trained weights.

    Attributes:
        verdict: The result of the audit in one line.
    """

    def __init__(self, allow_random_base: bool = False) -> None:
        self.allow_random_base = allow_random_base
        self.verdict = "not run"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit the adapted network, and stop all ranks if one finds a fault.

        Raises:
            UserError: If there is a fault, or no datamodule.
        """
        assert isinstance(pl_module, AdaptationTask)
        data = datamodule_of(trainer)
        if data is None:
            raise UserError("data: null, and AdapterAudit needs a training batch; give a datamodule")
        with isolated_randomness():
            batch = first_supervised(pl_module, data.train_dataloader())
        batch = trainer.strategy.batch_to_device(batch)
        with trainer.precision_plugin.forward_context():
            report = pl_module.audit(batch, trainer.optimizers, self.allow_random_base)
        # a fault on one rank stops all of them
        faults = next((found for found in gather(list(report.faults)) if found), [])
        report = replace(report, faults=tuple(faults))
        report.require()
        self.verdict = str(report)
        log.info("Audit: %s", self.verdict)
