"""A task that is built and filled from a checkpoint, and its predictor."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.common.conversion import Conversion
from eomt.app.checkpoint_files import load_checkpoint
from eomt.app.command_line import CLI
from eomt.app.messages import as_user_error, one_line
from eomt.app.reading import class_of, read_yaml
from eomt.app.runs import find_saved_config
from eomt.app.trainer import Trainer
from eomt.app.trust import is_own, with_saved_config
from eomt.errors import UserError
from eomt.models.weights.vqa import TOKENIZER
from eomt.predictors.of_tasks import predictor_of
from eomt.predictors.predictor import Predictor
from eomt.utils.paths import constructor_parameters, path_fields

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


def open_weights(weights: Path, device: torch.device) -> Predictor[Any]:
    """Return the predictor of weights.

    Args:
        weights: A .ckpt file, an adapter or merged folder.
        device: Where it computes.

    Raises:
        UserError: If they are damaged, or their base cannot be found.
    """
    args = with_saved_config(["inspect", "--ckpt_path", str(weights), "--data", "null"])
    try:
        with torch.random.fork_rng():
            opened = _Opened(args)
        if weights.is_file():
            load_checkpoint(opened.model, weights)
    except Exception as error:
        found = as_user_error(error)
        if found is None:
            raise
        # the parser puts many lines around it
        raise UserError(one_line(found)) from error
    task = opened.model.to(device).eval().requires_grad_(False)
    data = read_yaml(find_saved_config(weights)).get("data") or {}
    arguments = dict(data.get("init_args") or {})
    if (weights / TOKENIZER).is_dir():
        # a merged folder brings its own
        arguments["tokenizer"] = str(weights / TOKENIZER)
    names = opened.model.network.class_names or _class_names(data)
    predictor: Predictor[Any] = predictor_of(task, list(names), arguments, device)
    predictor.source = str(weights)
    predictor.conversion = Conversion.of_settings(arguments, f"{find_saved_config(weights)}: data")
    return predictor


def _class_names(data: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the classes that the data of a saved configuration has; empty if they are not known.

    Args:
        data: Its part `data`: only a class of this package is built, and its files need not be there.
    """
    if not is_own(data.get("class_path")):
        return ()
    given = data.get("init_args") or {}
    if isinstance(given.get("class_names"), list):
        return [str(name) for name in given["class_names"]]
    known = constructor_parameters(class_of(data))
    arguments = {name: value for name, value in given.items() if name in known}
    for name in path_fields(class_of(data)) & known.keys():
        if known[name].default is known[name].empty:
            # shared weights name no path; the names of classes do not hang on it
            arguments.setdefault(name, Path())
    try:
        return class_of(data)(**arguments).class_names or ()
    except (UserError, OSError, TypeError, ValueError) as error:
        log.info("The names of the classes are not known: %s", error)
        return ()
