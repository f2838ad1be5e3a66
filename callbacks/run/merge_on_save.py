"""The best model as a stand-alone network: adapters merged, compared, written."""

import logging
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.lora_checkpoint import LoRACheckpoint
from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask
from eomt.verification.merging import TOLERANCE, merged_copy, write_merged

log = logging.getLogger("eomt")


class MergeOnSave(Callback):
    """Writes `best_merged_step.../model.safetensors` whenever LoRACheckpoint saves a best.

    The copy is merged in fp32. Its answers on a validation batch are compared with those of the adapted network; a
    relative difference above 1e-4 means no file and an error in the log.
    """

    def __init__(self) -> None:
        self.max_abs_diff: float | None = None
        self.relative_diff: float | None = None
        # name in the run's folder, which may have been moved or copied since
        self.name = ""
        self._batch: Any = None
        # what stands beside the weights so that they open without the run: set by the command line
        self.config: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, LoRACheckpoint)]
        if not checkpoints:
            raise UserError("callbacks: MergeOnSave needs a LoRACheckpoint beside it")
        checkpoints[0].on_best.append(self.merge)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._batch is None:
            self._batch = batch

    def state_dict(self) -> dict[str, Any]:
        return {"max_abs_diff": self.max_abs_diff, "relative_diff": self.relative_diff, "name": self.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.max_abs_diff, self.relative_diff = state_dict["max_abs_diff"], state_dict["relative_diff"]
        self.name = state_dict["name"]

    def merge(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Path) -> None:
        """Merges a copy, compares, writes `best_merged_...` beside `checkpoint` and removes the one before."""
        assert isinstance(pl_module, AdaptationTask)
        if not trainer.is_global_zero:
            return
        folder = checkpoint.with_name(checkpoint.stem.replace("best_lora_", "best_merged_", 1))
        merged, self.max_abs_diff, self.relative_diff = merged_copy(pl_module.network, self._batch, pl_module.outputs)
        previous, self.name = self.name, ""
        # written so that NaN is refused too
        if not self.relative_diff <= TOLERANCE:
            log.error(
                "Merged and adapted model differ by %.1e (relative; at most %.0e is allowed): no merged file written",
                self.relative_diff,
                TOLERANCE,
            )
        else:
            write_merged(merged, folder, self.config)
            self.name = folder.name
        if previous and previous != self.name:
            shutil.rmtree(folder.with_name(previous), ignore_errors=True)
