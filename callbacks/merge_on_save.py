"""The best model as a stand-alone network: adapters merged, compared, written."""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import nn

from callbacks.lora_checkpoint import LoRACheckpoint
from eomt.errors import UserError
from eomt.models.adapter_io import write_folder
from eomt.models.lora import lora_layers, merge_lora_weights
from eomt.models.lora_integration import evaluation_mode
from eomt.tasks.base import AdaptationTask

log = logging.getLogger("eomt")

WEIGHTS_FILE = "model.safetensors"
TOLERANCE = 1e-4


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
        merged, self.max_abs_diff, self.relative_diff = merged_copy(pl_module, self._batch)
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


def merged_copy(task: AdaptationTask, batch: Any) -> tuple[nn.Module, float, float]:
    """A copy of the task's network in fp32 with its adapters merged, and how far its answers on `batch` are off.

    Returns:
        The copy; the largest absolute difference; the same relative to the largest answer.
    """
    adapted = copy.deepcopy(task.network).float()
    merged = copy.deepcopy(adapted)
    if lora_layers(merged):
        merged = merge_lora_weights(merged)
    with torch.no_grad(), full_precision(task.device.type), evaluation_mode(adapted), evaluation_mode(merged):
        expected, found = task.outputs(adapted, batch).double(), task.outputs(merged, batch).double()
    difference = float((expected - found).abs().max())
    return merged, difference, difference / max(float(expected.abs().max()), 1e-12)


@contextlib.contextmanager
def full_precision(device: str) -> Iterator[None]:
    """fp32 without autocast or TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def write_merged(network: nn.Module, folder: Path, config: str | None) -> None:
    """Writes plain weights, and the configuration that opens them."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}

    def write(beside: Path) -> None:
        save_file(state, beside / WEIGHTS_FILE, {"format": "pt"})
        if config is not None:
            (beside / "config.yaml").write_text(config)

    write_folder(folder, write, lambda path: (path / WEIGHTS_FILE).is_file())
