"""Pictures to whatever logger can show them."""

from collections.abc import Iterable

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image


def log_image(loggers: Iterable[Logger], name: str, image: Image.Image, step: int) -> None:
    """Sends a picture to the loggers that show pictures, wandb and TensorBoard; the others are skipped.

    Lightning's logger classes import wandb and tensorboard only when one is made, so neither has to be installed.

    Args:
        loggers: usually `trainer.loggers`.
        name: the picture's name; a logger shows the pictures of one name as a series over steps.
        image: an RGB picture.
        step: the number of optimiser steps taken.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(image), step, dataformats="HWC")
