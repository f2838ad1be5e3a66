"""The gate of an export: the graphs run by their own runtime, against PyTorch, on samples and on the task's figures."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import Comparison, GraphRecord, Record
from eomt.export.sessions import OpenVINOSession, Session, open_sessions
from eomt.utils.modes import full_precision

# largest difference of an output, as a share of its largest value
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
# largest difference of a figure of the task
METRIC_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}
# sizes of everything that may vary, beside the example's, at which graphs are compared
SIZES = (1, 3)
REPEATS = 5
# seconds after which a graph is not timed again
LONG = 3.0

Run = Callable[..., tuple[Tensor, ...]]


def runners(folder: Path, record: Record, name: str) -> Mapping[str, Session]:
    """Return what runs the graphs of a folder that was just written.

    Args:
        folder: The folder.
        record: What it says of itself.
        name: onnxruntime, openvino or torch.
    """
    if name == "torch":
        return {graph.name: ProgramSession(graph, folder / graph.file) for graph in record.graphs}
    if name == "openvino" and record.format == "onnx":
        return {
            graph.name: OpenVINOSession(graph, graph.file, (folder / graph.file).read_bytes())
            for graph in record.graphs
        }
    return open_sessions(folder, record)


class ProgramSession(Session):
    """A program of `torch.export` that this process has written.

    Args:
        record: See Session.
        path: The file.
    """

    def __init__(self, record: GraphRecord, path: Path) -> None:
        super().__init__(record, path.name)
        self.module = torch.export.load(path).module()

    @torch.no_grad()
    def _run(self, inputs: dict[str, Any]) -> list[Any]:
        return [value.numpy() for value in self.module(*map(torch.from_numpy, inputs.values()))]


def compare(
    exportable: Exportable,
    sessions: Mapping[str, Session],
    batches: Callable[[], Iterable[Batch]],
    dtype: str,
    source: str,
    runtime: str,
) -> Comparison:
    """Return how far graphs differ from PyTorch, in outputs and figures, and the time of both.

    Args:
        exportable: The network and its graphs.
        sessions: What runs them.
        batches: Returns the batches on which figures are measured, the same in each call.
        dtype: fp32 or fp16, which decides what may differ.
        source: What the samples are, for people.
        runtime: Name of what runs the graphs.

    Raises:
        UserError: If they differ too much.
    """
    differences, milliseconds = {}, {}
    with full_precision("cpu"):
        for graph in exportable.graphs:
            differences[graph.name] = difference(graph, sessions[graph.name])
            milliseconds[graph.name] = times(graph, sessions[graph.name])
        for name, value in differences.items():
            # not `>`, so that NaN is refused too
            if not value <= TOLERANCE[dtype]:
                raise UserError(
                    f"export: {name} by {runtime} and PyTorch differ by {value:.1e} on {source} (relative; at most "
                    f"{TOLERANCE[dtype]:.0e} is allowed), and nothing was written"
                )
        with torch.no_grad():
            expected = exportable.measure(exportable.model, batches())
            found = exportable.measure(exportable.runtime(sessions), batches())
    for name, value in expected.items():
        if not same_figure(value, found[name], METRIC_TOLERANCE[dtype]):
            raise UserError(
                f"export: {name} is {found[name]:.4f} by {runtime} and {value:.4f} by PyTorch on {source} (at most "
                f"{METRIC_TOLERANCE[dtype]:.3f} is allowed), and nothing was written"
            )
    figures = {name: (_or_none(value), _or_none(found[name])) for name, value in expected.items()}
    samples = sum(len(batch["image"]) for batch in batches())
    return Comparison(
        samples=samples, source=source, differences=differences, metrics=figures, milliseconds=milliseconds
    )


def difference(graph: Graph, session: Session) -> float:
    """Return the largest difference of an output, as a share of its largest value, over several sizes of batches."""
    worst = 0.0
    for inputs in (graph.inputs, *map(graph.resized, SIZES)):
        for expected, found in zip(graph.answers(inputs), session(**inputs), strict=True):
            scale = max(float(expected.abs().max()), 1e-12)
            share = float((expected.double() - found.double()).abs().max()) / scale
            worst = share if math.isnan(share) else max(worst, share)
    return worst


def times(graph: Graph, session: Session) -> tuple[float, float]:
    """Return the milliseconds of one sample, by PyTorch and by a session, on the same threads: medians."""
    inputs = graph.resized(1)

    def by_pytorch() -> object:
        return graph.answers(inputs)

    def by_session() -> object:
        return session(**inputs)

    by_pytorch(), by_session()
    taken: tuple[list[float], list[float]] = ([], [])
    # in turns, so that what else a machine does falls on both
    while len(taken[0]) < REPEATS and sum(taken[0]) < LONG:
        for run, seconds in zip((by_pytorch, by_session), taken, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken[0]), 1000 * statistics.median(taken[1])


def same_figure(first: float, second: float, tolerance: float) -> bool:
    """Return whether two figures are equal, but for a tolerance; nan is equal to nan."""
    return (math.isnan(first) and math.isnan(second)) or abs(first - second) <= tolerance


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
