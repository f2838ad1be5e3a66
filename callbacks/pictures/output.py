"""Where pictures go: into files, and to whatever logger can show them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from eomt.utils.files import write_file


def picture_path(name: str) -> Path:
    """Return where a sample's picture goes, below a folder and never outside it; `a.jpg` is `a.jpg.png` there.

    The name alone decides, so that no process and no order of files can make two samples share a picture.
    """
    path = Path(name)
    path = Path(*(part for part in path.parts if part not in (path.anchor, "..")))
    return path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all, and its folder if need be.

    Args:
        picture: Of any mode that PNG knows; the mode is kept.
        path: The file.

    Raises:
        UserError: The folder cannot be written to.
    """
    write_file(path, lambda beside: picture.save(beside, format="PNG"))


def log_image(loggers: Iterable[Logger], name: str, image: Image.Image, step: int) -> None:
    """Send a picture to the loggers that show pictures, wandb and TensorBoard; the others are skipped.

    Lightning's logger classes import wandb and tensorboard only when one is made, so neither has to be installed.

    Args:
        loggers: Usually `trainer.loggers`.
        name: The picture's name; a logger shows the pictures of one name as a series over steps.
        image: An RGB picture.
        step: The number of optimizer steps taken.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(image), step, dataformats="HWC")


def show_picture(trainer: Trainer, folder: Path, picture: Image.Image) -> None:
    """Save the picture of a validation or a test in a run's folder; in a fit, send it to the loggers too.

    It is `pictures/val_step000500.png` in a fit, else `validate.png` or `test.png`.

    Args:
        trainer: That evaluates.
        folder: The run's.
        picture: RGB.
    """
    function, step = trainer.state.fn, trainer.global_step
    assert function is not None
    name = f"val_step{step:06d}" if function == "fit" else function.value
    save_picture(picture, folder / "pictures" / f"{name}.png")
    if function == "fit":
        log_image(trainer.loggers, "val_pictures", picture, step)
