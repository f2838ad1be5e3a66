"""Trained weights as a function of images: `eomt.load`.

Of an exported folder neither Lightning nor transformers is loaded, nor a network of this package.
"""

from pathlib import Path
from typing import Any

import torch

from eomt.app.runs import is_run, local_path, newest_checkpoint
from eomt.errors import UserError
from eomt.export.opened import open_exported
from eomt.export.record import is_exported
from eomt.predictors.predictor import Predictor


def load(path: str | Path, device: str | torch.device | None = None) -> Predictor[Any]:
    """Return a trained model as a function of images: `eomt.load(path).predict("image.jpg")`.

    Args:
        path: A run's folder (its best checkpoint is taken, else its latest), a `.ckpt` file, an adapter folder (its
            base is opened as the run did), a merged folder, one that `export` wrote, or `user/name` on the hub, perhaps
            with a revision behind an `@`.
        device: Where it computes; None takes the GPU if there is one.

    Returns:
        A predictor of the task: see `eomt.predictors`.

    Raises:
        UserError: If there are no weights, they are damaged, or their base cannot be found.
    """
    folder = local_path(str(path))
    if is_exported(folder):
        if device is not None and not str(device).startswith("cpu"):
            raise UserError(f"device: {device}, but exported graphs run on the CPU; leave it out")
        return open_exported(folder)
    weights = _weights_of(folder)
    from eomt.app.opened import open_weights

    return open_weights(weights, _device(device))


def _device(given: str | torch.device | None) -> torch.device:
    """Return the device that is named, if it is there; None takes a GPU, else the CPU.

    Raises:
        UserError: If there is none of that name.
    """
    try:
        found = torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise UserError(f"device: {given!r} is not here; give cpu or cuda") from error
    return found


def _weights_of(path: Path) -> Path:
    """Return the weights that a path stands for: itself, or the best or latest checkpoint of a run's folder.

    Raises:
        UserError: If the folder is a run without checkpoints.
    """
    if not is_run(path):
        return path
    found = newest_checkpoint(path, "best") or newest_checkpoint(path, "latest")
    if found is None:
        raise UserError(f"{path}: this run has no checkpoint; give a .ckpt file, an adapter or a merged folder")
    return found
