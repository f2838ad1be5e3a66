"""The command `demo`: a task with its trained network, and other adapters of its base, on a page."""

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.common.conversion import Conversion
from eomt.demo.models import Models
from eomt.demo.serve import serve
from eomt.errors import UserError, shortened
from eomt.lora.layers import lora_layers
from eomt.predictors.of_tasks import predictor_of
from eomt.predictors.predictor import Predictor
from eomt.tasks.base import AdaptationTask

log = logging.getLogger("eomt")


def show_demo(
    task: AdaptationTask, data: Mapping[str, Any], host: str, port: int | None, adapters: Sequence[str]
) -> None:
    """Show the page of a task until Ctrl-C.

    Args:
        task: Its network is filled, on its device and in evaluation mode.
        data: Constructor arguments of the data that it was trained on.
        host: Address that is served.
        port: Of that address; None takes the first that is free.
        adapters: Others of the same base, as NAME=FOLDER.

    Raises:
        UserError: See `eomt.demo.serve.server` and `Models.add`.
    """
    source = task.weights or ""
    name = "adapted" if lora_layers(task.network) else "trained"
    models = Models(task.network, partial(_predictor, task, data, source), name)
    for given in adapters:
        name, equals, folder = given.partition("=")
        if not (name and equals and folder):
            raise UserError(
                f"adapter: {shortened(given)!r}; give NAME=FOLDER, such as night=runs/my_run/best_lora_step9"
            )
        models.add(name, Path(folder).expanduser())
        log.info("Adapter %s: %s", name, folder)
    serve(models, host, port)


def _predictor(task: AdaptationTask, data: Mapping[str, Any], source: str, network: nn.Module) -> Predictor[Any]:
    """Return the predictor of a task, with another network in place of its own."""
    other = copy.copy(task)
    # a copy of a module shares the table of its parts
    vars(other)["_modules"] = dict(task._modules) | {"network": network}
    found: Predictor[Any] = predictor_of(other, list(task.network.class_names or ()), data, task.device)
    found.source = source
    found.conversion = Conversion.of_settings(data, "data")
    return found
