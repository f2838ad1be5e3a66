"""The encoder of a pre-training, saved for the next stage."""

import copy
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.lora_checkpoint import LoRACheckpoint
from callbacks.run.run_folder import make_room, run_folder
from eomt.errors import UserError
from eomt.lora.layers import lora_layers, merge_lora_weights
from eomt.lora.packed_weight import packed_layers, unquantize
from eomt.models.mae import MaskedAutoencoder, save_encoder
from eomt.models.weights.mae import is_encoder_folder

log = logging.getLogger("eomt")

FOLDER = "encoder"


class EncoderOnSave(Callback):
    """A callback for MaskedAutoencoding that writes `encoder/` whenever LoRACheckpoint saves a best checkpoint.

    The folder holds a ViTMAEModel in Hugging Face layout with merged adapters, for `pretrained` of a MAEEncoder.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Register `write` with the LoRACheckpoint of a fit.

        Raises:
            UserError: If there is none, or the network is no MaskedAutoencoder.
        """
        if stage != "fit":
            return
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, LoRACheckpoint)]
        if not checkpoints:
            raise UserError("callbacks: EncoderOnSave needs a LoRACheckpoint; add callbacks.LoRACheckpoint")
        if not isinstance(pl_module.network, MaskedAutoencoder):
            name = type(pl_module.network).__name__
            raise UserError(f"callbacks: EncoderOnSave is for eomt.models.MaskedAutoencoder, not {name}; leave it out")
        checkpoints[0].on_best.append(self.write)

    def write(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Path) -> None:
        """Write the encoder beside `checkpoint`, in place of the previous one."""
        if not trainer.is_global_zero:
            return
        network = pl_module.network
        assert isinstance(network, MaskedAutoencoder)
        plain: Any = network
        if packed_layers(network):
            # a GPU may not hold it otherwise
            plain = unquantize(copy.deepcopy(network).cpu())
        if lora_layers(network):
            plain = merge_lora_weights(copy.deepcopy(plain).float())
        folder = checkpoint.with_name(FOLDER)
        make_room(folder, is_encoder_folder)
        save_encoder(plain, folder)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log where the encoder is, and how to use it."""
        folder = run_folder(trainer) / FOLDER
        if trainer.is_global_zero and folder.is_dir():
            log.info("Encoder of the best step: %s; use it with --model.network.encoder.pretrained", folder)
