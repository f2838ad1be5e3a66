"""Proof, before the first step, that every adapter acts and learns."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from eomt.errors import UserError
from eomt.lora.trainable import check_trainable
from eomt.tasks.base import AdaptationTask
from eomt.utils.distributed import gather
from eomt.verification.audit import (
    audit_batch,
    check_base_is_loaded,
    check_optimiser,
    first_supervised,
    refuse,
    summarise,
)

log = logging.getLogger("eomt")


class AdapterAudit(Callback):
    """Runs before the first step of every fit, on one training batch, and stops the run on a dead adapter.

    It checks that what is trainable is what the config says and is in the optimiser; that each adapter is called in
    training and in evaluation; that each adapter's A and B get a finite gradient that is not zero, from the loss in
    training and from the output in evaluation; that the output does not depend on whether gradients are computed; that
    everything else that is trained gets a gradient; and that nothing is frozen that no file ever filled.

    Random states, buffers, gradients and weights are afterwards what they were.

    Args:
        allow_random_base: let frozen weights be random, as in a smoke test without pre-trained weights.
    """

    def __init__(self, allow_random_base: bool = False) -> None:
        self.allow_random_base = allow_random_base
        self.verdict = "not run"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AdaptationTask)
        if trainer.datamodule is None:  # type: ignore[attr-defined]
            raise UserError("data: AdapterAudit needs a datamodule to take a batch from")
        check_trainable(pl_module.network)
        check_optimiser(pl_module, trainer.optimizers)
        if not self.allow_random_base:
            check_base_is_loaded(pl_module.network)
        with isolate_rng():
            batch = first_supervised(pl_module, trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        batch = trainer.strategy.batch_to_device(batch)
        with trainer.precision_plugin.forward_context():
            faults = audit_batch(pl_module, batch)
        # a fault on one rank stops all of them
        refuse(next((found for found in gather(faults) if found), []))
        self.verdict = summarise(pl_module)
        log.info("Audit: %s", self.verdict)
