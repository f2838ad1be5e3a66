"""The best model as a stand-alone network with merged adapters."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.lora_checkpoint import LoRACheckpoint
from callbacks.run.run_folder import make_room, remove_folder, saved_name
from callbacks.run.saved_state import MERGE_STATE, checked_state
from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask
from eomt.verification.merging import (
    TOLERANCE,
    holds_only_merged,
    is_merged_folder,
    merged_copy,
    quantized_difference,
    write_merged,
)

log = logging.getLogger("eomt")


class MergeOnSave(Callback):
    """A callback that writes `best_merged_step.../model.safetensors` whenever LoRACheckpoint saves a best checkpoint.

    A copy of the network is merged in fp32 and compared with the adapted network on a validation batch. If their
    outputs differ by more than 1e-4 (relative), no file is written and the log has an error. Of a quantized base, the
    weights from before are merged and compared; how far they are from the quantized network is recorded beside it.

    Attributes:
        max_abs_diff: Largest absolute difference of the last comparison.
        relative_diff: Its largest relative difference.
        quantized_diff: Largest relative difference of the merged network from the one over the quantized base; None
            where it is not quantized.
        name: Name of the merged folder; "" if there is none. A name, since a run may be moved or copied.
        config: Configuration to write beside the weights, so that they open without the run; set by the command line.
    """

    def __init__(self) -> None:
        self.max_abs_diff: float | None = None
        self.relative_diff: float | None = None
        self.quantized_diff: float | None = None
        self.name = ""
        self._batch: Any = None
        self.config: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Register `merge` with the LoRACheckpoint of a fit.

        Raises:
            UserError: If there is none.
        """
        if stage != "fit":
            return
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, LoRACheckpoint)]
        if not checkpoints:
            raise UserError("callbacks: MergeOnSave needs a LoRACheckpoint; add callbacks.LoRACheckpoint")
        checkpoints[0].on_best.append(self.merge)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first validation batch for the comparison."""
        if self._batch is None:
            self._batch = batch

    def state_dict(self) -> dict[str, Any]:
        """Return the differences and the name of the merged folder."""
        names = ("max_abs_diff", "relative_diff", "quantized_diff", "name")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the differences and the name of the merged folder.

        Raises:
            UserError: If it is a name that no run gives, or the differences are no numbers.
        """
        state_dict = checked_state(state_dict, MERGE_STATE, self)
        self.max_abs_diff, self.relative_diff = state_dict["max_abs_diff"], state_dict["relative_diff"]
        self.quantized_diff = state_dict.get("quantized_diff")
        self.name = saved_name(state_dict["name"], "best_merged")

    def merge(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Path) -> None:
        """Write `best_merged_...` beside `checkpoint` if the comparison succeeds, and remove the previous one."""
        assert isinstance(pl_module, AdaptationTask)
        if not trainer.is_global_zero:
            return
        folder = checkpoint.with_name(checkpoint.stem.replace("best_lora_", "best_merged_", 1))
        merged, self.max_abs_diff, self.relative_diff = merged_copy(pl_module.network, self._batch, pl_module.outputs)
        self.quantized_diff = quantized_difference(pl_module.network, merged, self._batch, pl_module.outputs)
        previous, self.name = self.name, ""
        # not `>`, so that NaN is refused too
        if not self.relative_diff <= TOLERANCE:
            log.error(
                "Merged and adapted model differ by %.1e (relative; at most %.0e is allowed): no merged file written",
                self.relative_diff,
                TOLERANCE,
            )
        else:
            make_room(folder, lambda path: is_merged_folder(path, pl_module.network.files))
            write_merged(merged, folder, self.config)
            self.name = folder.name
            if self.quantized_diff is not None:
                log.info(
                    "%s: the base is not quantized in it: answers differ by %.1e from those over the quantized base",
                    folder.name,
                    self.quantized_diff,
                )
        if previous and previous != self.name:
            remove_folder(folder.with_name(previous), lambda path: holds_only_merged(path, pl_module.network.files))
