"""Where pictures go: into files, and to whatever logger can show them."""

import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from eomt.utils.files import fitting, write_file
from eomt.utils.images import IMAGE_EXTENSIONS

log = logging.getLogger("eomt")


def picture_path(name: str) -> Path:
    """Return where a sample's picture goes, below a folder and never outside it; `a.jpg` is `a.jpg.png` there.

    The name alone decides, so that no process and no order of files can make two samples share a picture. What is too
    long for a file's name is cut, see `fitting`.
    """
    path = Path(name)
    path = Path(*(part for part in path.parts if part not in (path.anchor, "..")))
    # `a.jpg.png` may lie beside `a.jpg`
    is_own = path.suffix.lower() == ".png" and Path(path.stem).suffix.lower() not in IMAGE_EXTENSIONS
    return fitting(path if is_own else path.with_name(f"{path.name}.png"))


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
    """Send a picture to the loggers that show pictures: wandb, TensorBoard, MLflow and Comet.

    Lightning's logger classes import wandb and the like only when one is made, so none has to be installed. Loggers
    that are not known here get no picture, which is said once.

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
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, np.asarray(image), artifact_file=f"{name}/step{step:06d}.png")
        elif isinstance(logger, CometLogger):
            logger.experiment.log_image(image, name=name, step=step)
        elif not isinstance(logger, CSVLogger):
            _say_once(type(logger).__name__)


@lru_cache
def _say_once(logger: str) -> None:
    log.info("%s: gets no pictures, they are in the run's folder", logger)


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
