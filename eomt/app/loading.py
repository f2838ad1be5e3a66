"""Trained weights as a function of images: `eomt.load`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eomt.app.checkpoint_files import load_checkpoint
from eomt.app.command_line import CLI
from eomt.app.reading import class_of, read_yaml
from eomt.app.runs import find_saved_config, is_run, newest_checkpoint
from eomt.app.trainer import Trainer
from eomt.app.trust import is_own, with_saved_config
from eomt.errors import UserError
from eomt.export.opened import open_exported
from eomt.export.record import is_exported
from eomt.predictors.of_tasks import predictor_of
from eomt.predictors.predictor import Predictor
from eomt.utils.paths import constructor_parameters

log = logging.getLogger("eomt")


class _Opened(CLI):
    """The task of a checkpoint, built and filled, without running a command or touching random numbers."""

    def _set_seed(self) -> None:
        """Leave the caller's random numbers alone."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer | None:  # type: ignore[override]
        """Return none: nothing is run."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def load(path: str | Path, device: str | torch.device | None = None) -> Predictor[Any]:
    """Return a trained model as a function of images: `eomt.load(path).predict("image.jpg")`.

    Args:
        path: A run's folder (its best checkpoint is taken, else its latest), a `.ckpt` file, an adapter folder (its
            base is opened as the run did) or a merged folder.
        device: Where it computes; None takes the GPU if there is one.

    Returns:
        A predictor of the task: see `eomt.predictors`.

    Raises:
        UserError: If there are no weights, they are damaged, or their base cannot be found.
    """
    folder = Path(path).expanduser()
    if is_exported(folder):
        return open_exported(folder)
    weights = _weights_of(folder)
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    args = with_saved_config(["inspect", "--ckpt_path", str(weights)])
    with torch.random.fork_rng():
        opened = _Opened([*args, "--data", "null"])
    if weights.is_file():
        load_checkpoint(opened.model, weights)
    task = opened.model.to(found).eval().requires_grad_(False)
    data = read_yaml(find_saved_config(weights)).get("data") or {}
    names = opened.model.network.class_names or _class_names(data)
    predictor: Predictor[Any] = predictor_of(task, list(names), data.get("init_args") or {}, found)
    predictor.source = str(weights)
    return predictor


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


def _class_names(data: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the classes that the data of a saved configuration has; empty if they are not known.

    Args:
        data: Its part `data`: only a class of this package is built, and its files need not be there.
    """
    if not is_own(data.get("class_path")):
        return ()
    known = constructor_parameters(class_of(data))
    arguments = {name: value for name, value in (data.get("init_args") or {}).items() if name in known}
    try:
        return class_of(data)(**arguments).class_names or ()
    except (UserError, OSError, TypeError, ValueError) as error:
        log.info("The names of the classes are not known: %s", error)
        return ()
