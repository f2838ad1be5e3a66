"""What the export of a task needs to know; a file for each task says it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eomt.export.graph import Graph
from eomt.export.record import Settings
from eomt.export.sessions import Session

Batch = dict[str, Any]


@dataclass
class Exportable:
    """A merged network as graphs, with what compares them with it.

    Attributes:
        graphs: The graphs.
        settings: What `export.json` says of the task.
        model: The network, as predictors see it.
        runtime: Returns the same of graphs that run.
        measure: Returns the figures of the task, of a model as predictors see it on batches of validation.
        write_beside: Writes what else runs them, such as a tokenizer, into their folder.
    """

    graphs: list[Graph]
    settings: Settings
    model: Any
    runtime: Callable[[Mapping[str, Session]], Any]
    measure: Callable[[Any, Iterable[Batch]], dict[str, float]]
    write_beside: Callable[[Path], object] = lambda folder: None
