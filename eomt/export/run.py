"""The export of a task: graphs, their comparison, and the folder that is kept if they answer as PyTorch does."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from datamodules.common.conversion import FIELD_NAMES
from eomt import __version__
from eomt.export.comparison import compare, runners
from eomt.export.exportable import Batch, Exportable
from eomt.export.folder import write_texts
from eomt.export.graph import Graph, write_onnx, write_program
from eomt.export.of_tasks import exportable_of
from eomt.export.openvino import write_openvino
from eomt.export.options import ExportOptions, is_export_folder
from eomt.export.record import (
    RECORD_FILE,
    SUFFIXES,
    TOKENIZER,
    Comparison,
    FileRecord,
    GraphRecord,
    Record,
    TokenizerRecord,
)
from eomt.models.network import Network
from eomt.tasks.base import AdaptationTask
from eomt.utils.files import write_folder
from eomt.utils.tables import text_table


@dataclass
class Samples:
    """What graphs are compared on.

    Attributes:
        first: A batch.
        batches: Returns batches for the figures of the task, the same in each call.
        source: What they are, for people.
        images: Arguments of the data that say how stored values become what the network takes.
    """

    first: Batch
    batches: Callable[[], Iterable[Batch]]
    source: str
    images: Mapping[str, Any] = field(default_factory=dict)


def export_network(
    task: AdaptationTask, merged: Network, samples: Samples, folder: Path, options: ExportOptions, weights: str
) -> Record:
    """Write the graphs of a merged network into a folder, whole or not at all, once their own runtime has answered.

    Args:
        task: The task.
        merged: A merged copy of its network.
        samples: What graphs are compared on.
        folder: Folder to write.
        options: What is written.
        weights: Name of the checkpoint, for people.

    Returns:
        What the folder says of itself.

    Raises:
        UserError: If the network has no graph, its graphs answer differently, or the folder cannot be written.
    """
    network = merged.cpu().eval().requires_grad_(False)
    network.feature_cache = None
    exportable = exportable_of(task, network, samples.first, list(options.anomaly))
    written: list[Record] = []

    def write(beside: Path) -> None:
        graphs = [_write_graph(graph, beside, options) for graph in exportable.graphs]
        exportable.write_beside(beside)
        record = Record.model_validate(
            {
                "format": options.format,
                "dtype": options.dtype,
                "opset": None if options.format == "torch" else options.opset,
                "source": weights,
                "network": type(network).__name__,
                "img_size": network.img_size,
                "images": {name: samples.images.get(name) for name in FIELD_NAMES},
                "versions": _versions(options),
                "graphs": graphs,
                "settings": exportable.settings,
                "tokenizer": [TokenizerRecord.of(path) for path in sorted(beside.glob(f"{TOKENIZER}/*"))],
                "checks": {},
            }
        )
        for name in _runtimes(options):
            record.checks[name] = _compared(exportable, beside, record, name, samples, options)
        (beside / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n")
        write_texts(beside, network, record)
        written.append(record)

    write_folder(folder, write, is_export_folder)
    return written[0]


def report(record: Record) -> Iterator[str]:
    """Yield the lines that a command prints of an export."""
    for runtime, check in record.checks.items():
        rows = [("file", "bytes", "difference", "PyTorch ms", f"{runtime} ms")]
        for graph in record.graphs:
            size = graph.bytes + (graph.weights.bytes if graph.weights else 0)
            taken = check.milliseconds[graph.name]
            rows.append(
                (graph.file, f"{size:,}", f"{check.differences[graph.name]:.1e}", f"{taken[0]:.1f}", f"{taken[1]:.1f}")
            )
        yield f"Compared on {check.source} ({check.samples} in all, {torch.get_num_threads()} thread(s)):"
        yield from text_table(rows, numbers=(1, 2, 3, 4))
        if check.metrics:
            figures = [("figure", "PyTorch", runtime)]
            figures += [(name, _figure(ours), _figure(theirs)) for name, (ours, theirs) in check.metrics.items()]
            yield from text_table(figures, numbers=(1, 2))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _write_graph(graph: Graph, folder: Path, options: ExportOptions) -> GraphRecord:
    path = folder / f"{graph.name}{SUFFIXES[options.format]}"
    half, weights = options.dtype == "fp16", None
    if options.format == "torch":
        write_program(graph, path, half)
    elif options.format == "openvino":
        weights = FileRecord.of(write_openvino(graph, path, options.opset, half))
    else:
        write_onnx(graph, path, options.opset, half)
    inputs, outputs = graph.records()
    return GraphRecord(
        **FileRecord.of(path).model_dump(), name=graph.name, inputs=inputs, outputs=outputs, weights=weights
    )


def _runtimes(options: ExportOptions) -> list[str]:
    own = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}[options.format]
    return list(dict.fromkeys([own, *options.check]))


def _compared(
    exportable: Exportable, folder: Path, record: Record, name: str, samples: Samples, options: ExportOptions
) -> Comparison:
    sessions = runners(folder, record, name)
    return compare(exportable, sessions, samples.batches, options.dtype, samples.source, name)


def _versions(options: ExportOptions) -> Mapping[str, str]:
    packages = ["torch"]
    packages += ["onnx", "onnxscript", "onnxruntime"] if options.format in ("onnx", "openvino") else []
    packages += ["openvino"] if options.format == "openvino" or "openvino" in options.check else []
    return {"eomt": __version__} | {name: version(name) for name in packages}
