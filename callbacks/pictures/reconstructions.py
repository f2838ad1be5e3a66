"""Pictures of what a masked autoencoder sees and makes of it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage, check_num_samples
from callbacks.pictures.grid import picture_grid
from callbacks.pictures.output import picture_path, save_picture, show_picture
from callbacks.run.run_folder import PREDICTIONS
from eomt.models.mae import MAEPictures
from eomt.pictures.colors import Color
from eomt.tasks.masked_autoencoding import MaskedAutoencoding

log = logging.getLogger("eomt")

RECONSTRUCTIONS = Path(PREDICTIONS) / "reconstructions"
TITLES = ["image", "masked", "reconstruction"]
# the mean color, in which removed patches are shown
REMOVED: Color = (124, 116, 104)


class ReconstructionPictures(EvaluationCallback[LightningModule]):
    """Writes pictures into the run's folder; for MaskedAutoencoding, with other tasks nothing.

    `pictures/val_step000500.png`: the first validation images, what is left of them, and how they are rebuilt, under
    the same masks every time; also sent to wandb and TensorBoard. `pictures/validate.png`: the same for `validate`.
    `predictions/reconstructions`: one picture for each image of `predict`. With `norm_pix_loss` removed patches get
    back their true mean and deviation, which the network does not predict; the legend says so.

    Args:
        num_samples: How many validation images are shown, at most a batch.
    """

    def __init__(self, num_samples: int = 4) -> None:
        self.num_samples = check_num_samples(num_samples)

    def take(self, trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> None:
        """Draw from the first batch of a validation, and each image of `predict`."""
        if not isinstance(task, MaskedAutoencoding):
            return
        legend = [(caption(task.network.norm_pix_loss), REMOVED)]
        batch, chosen = evaluated.batch, evaluated.real()
        if evaluated.stage == "val" and evaluated.index == 0 and trainer.is_global_zero:
            chosen = chosen[: self.num_samples]
            rows = _rows(task.rebuild(batch), chosen)
            show_picture(trainer, self.folder, picture_grid(rows, TITLES, _names(batch, chosen), legend))
        if evaluated.stage == "predict":
            for index in chosen:
                picture = picture_grid(_rows(evaluated.outputs, [index]), TITLES, _names(batch, [index]), legend)
                save_picture(picture, self.folder / RECONSTRUCTIONS / picture_path(batch["name"][index]))

    def end(self, trainer: Trainer, task: LightningModule, stage: Stage) -> None:
        """Say where the pictures of `predict` are."""
        if stage == "predict" and trainer.is_global_zero and isinstance(task, MaskedAutoencoding):
            log.info("Reconstructions are in %s", self.folder / RECONSTRUCTIONS)


def caption(norm_pix_loss: bool) -> str:
    """Return what is to be known of removed patches."""
    if norm_pix_loss:
        return "removed patches: their true mean and deviation are put back, only the rest is predicted"
    return "removed patches"


def _rows(pictures: MAEPictures, chosen: Sequence[int]) -> list[list[Tensor]]:
    return [[kind[index].cpu() for kind in pictures] for index in chosen]


def _names(batch: Any, chosen: Sequence[int]) -> list[str]:
    return [batch["name"][index] for index in chosen]
