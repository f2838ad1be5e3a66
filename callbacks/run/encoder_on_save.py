"""The encoder of a pre-training, for the next stage."""

import copy
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.lora_checkpoint import LoRACheckpoint
from callbacks.run.run_folder import run_folder
from eomt.errors import UserError
from eomt.lora.layers import lora_layers, merge_lora_weights
from eomt.models.mae import MaskedAutoencoder, save_encoder

log = logging.getLogger("eomt")

FOLDER = "encoder"


class EncoderOnSave(Callback):
    """Writes `encoder/` into the run's folder whenever LoRACheckpoint saves a best; for MaskedAutoencoding.

    It is a ViTMAEModel in Hugging Face layout, adapters merged in: what `pretrained` of a MAEEncoder takes.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, LoRACheckpoint)]
        if not checkpoints:
            raise UserError("callbacks: EncoderOnSave needs a LoRACheckpoint beside it")
        if not isinstance(pl_module.network, MaskedAutoencoder):
            name = type(pl_module.network).__name__
            raise UserError(f"callbacks: EncoderOnSave is for eomt.models.MaskedAutoencoder, not {name}")
        checkpoints[0].on_best.append(self.write)

    def write(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Path) -> None:
        """Writes the encoder beside `checkpoint`, in place of the one before."""
        if not trainer.is_global_zero:
            return
        network = pl_module.network
        assert isinstance(network, MaskedAutoencoder)
        plain: Any = network
        if lora_layers(network):
            plain = merge_lora_weights(copy.deepcopy(network).float())
        save_encoder(plain, checkpoint.with_name(FOLDER))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer) / FOLDER
        if trainer.is_global_zero and folder.is_dir():
            log.info("Encoder of the best step: %s; take it by --model.network.encoder.pretrained", folder)
