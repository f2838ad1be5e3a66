"""Pictures of what a masked autoencoder sees and makes of it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures.loggers import log_image
from callbacks.pictures.masks import grid, save_picture
from callbacks.pictures.predictions import picture_path
from callbacks.run.run_folder import run_folder
from eomt.errors import UserError
from eomt.models.mae import MAEPictures
from eomt.tasks.masked_autoencoding import MaskedAutoencoding

log = logging.getLogger("eomt")

RECONSTRUCTIONS = Path("predictions") / "reconstructions"
TITLES = ["image", "masked", "reconstruction"]


class ReconstructionPictures(Callback):
    """Writes pictures into the run's folder; for MaskedAutoencoding, with other tasks nothing.

    `pictures/val_step000500.png`: the first validation images, what is left of them, and how they are rebuilt, under
    the same masks every time; also sent to wandb and TensorBoard. `pictures/validate.png`: the same for `validate`.
    `predictions/reconstructions`: one picture for each image of `predict`.

    Args:
        num_samples: how many validation images are shown, at most a batch.
    """

    def __init__(self, num_samples: int = 4) -> None:
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples}, must be at least 1")
        self.num_samples = num_samples

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = run_folder(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws from the first batch."""
        if batch_idx > 0 or not trainer.is_global_zero or not isinstance(pl_module, MaskedAutoencoding):
            return
        chosen = [index for index, name in enumerate(batch["name"]) if name][: self.num_samples]
        pictures = pl_module.rebuild(batch["image"], batch_idx)
        picture = grid(_rows(pictures, chosen), TITLES, [batch["name"][index] for index in chosen], [])
        step = trainer.global_step
        name = "validate.png" if trainer.state.fn == "validate" else f"val_step{step:06d}.png"
        save_picture(picture, self._folder / "pictures" / name)
        if trainer.state.fn == "fit":
            log_image(trainer.loggers, "val_pictures", picture, step)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes each image's picture; every process writes its own share."""
        if not isinstance(outputs, MAEPictures):
            return
        for index, name in enumerate(batch["name"]):
            if name:
                picture = grid(_rows(outputs, [index]), TITLES, [name], [])
                save_picture(picture, self._folder / RECONSTRUCTIONS / picture_path(name))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the pictures are."""
        if trainer.is_global_zero and isinstance(pl_module, MaskedAutoencoding):
            log.info("Reconstructions are in %s", self._folder / RECONSTRUCTIONS)


def _rows(pictures: MAEPictures, chosen: Sequence[int]) -> list[list[Tensor]]:
    return [[kind[index].cpu() for kind in pictures] for index in chosen]
