"""A part of a network as a graph: traced by torch.export, and written as ONNX or as a program of PyTorch."""

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from eomt.errors import UserError, first_line
from eomt.export.record import TensorRecord

# what onnxruntime, TensorRT and OpenVINO all take
OPSETS = (18, 19, 20)
# the largest graph: a message of protobuf has at most 2 GiB
MOST_BYTES = 2**31 - 2**20
# the most samples, objects or tokens in one call
MOST = 4096
# loggers of what traces and translates, which tell each of their steps
LOGS = ("torch.onnx", "torch.export", "torch.__trace", "onnxscript", "onnx_ir", "torch.fx")
# what is kept of a program's nodes would name files of the machine that traced it
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "fwd_source_fn_stack")


@dataclass
class Graph:
    """A part of a network, with an input that it takes.

    Attributes:
        name: Of its file, without the suffix.
        module: Takes the inputs in their order, and returns a tuple of tensors.
        inputs: An example of each input, with two or more in every dimension that may vary.
        dynamic: Of each input the dimensions that may vary, with their names.
        outputs: Names of the outputs.
        limits: The largest length of a dimension, where it is not `MOST`.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    limits: dict[str, int] = field(default_factory=dict)

    def resized(self, size: int, only: str | None = None) -> dict[str, Tensor]:
        """Return inputs with another size of what may vary, made of the example's.

        Args:
            size: The size.
            only: Name of the dimension; None takes all.
        """
        found = {}
        for name, value in self.inputs.items():
            for dim, label in self.dynamic[name].items():
                if only in (None, label):
                    value = value.index_select(dim, torch.arange(size) % value.shape[dim])
            found[name] = value
        return found

    def records(self) -> tuple[list[TensorRecord], list[TensorRecord]]:
        """Return what is to be said of the inputs, and of the outputs."""
        labels = sorted({label for of_input in self.dynamic.values() for label in of_input.values()})
        of_inputs = [_record(name, value, self.dynamic[name]) for name, value in self.inputs.items()]
        answers = self.answers(self.inputs)
        varying: list[dict[int, str]] = [{} for _ in answers]
        for label in labels:
            # what an output's shape depends on shows at a length that the example has not
            other = next(length for length in (5, 4) if length != self._length(label))
            for found, before, after in zip(varying, answers, self.answers(self.resized(other, label)), strict=True):
                changed = [dim for dim in range(before.ndim) if before.shape[dim] != after.shape[dim]]
                # such as the states of a question, which stand after those of its image
                found |= {dim: _name(label, after.shape[dim] - other) for dim in changed}
        of_outputs = [_record(*parts) for parts in zip(self.outputs, answers, varying, strict=True)]
        return of_inputs, of_outputs

    def _length(self, label: str) -> int:
        return next(
            self.inputs[name].shape[dim]
            for name, of_input in self.dynamic.items()
            for dim, found in of_input.items()
            if found == label
        )

    @torch.no_grad()
    def answers(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return what PyTorch makes of inputs."""
        found: tuple[Tensor, ...] = self.module(*inputs.values())
        return found

    def trace(self, half: bool) -> ExportedProgram:
        """Return the program that PyTorch sees in the module.

        Args:
            half: Compute in 16 bits; inputs and outputs stay in 32.

        Raises:
            UserError: If the network does something that cannot be traced.
        """
        module = copy.deepcopy(self.module).half() if half else self.module
        dims = {
            name: Dim(name, min=1, max=self.limits.get(name, MOST))
            for of_input in self.dynamic.values()
            for name in of_input.values()
        }
        shapes = tuple({dim: dims[name] for dim, name in self.dynamic[key].items()} for key in self.inputs)
        try:
            with torch.no_grad(), _quiet():
                program = torch.export.export(module, tuple(self.inputs.values()), dynamic_shapes=shapes)
        except Exception as error:
            raise UserError(
                f"export: {self.name} cannot be traced ({type(error).__name__}: {first_line(error)}); this network can "
                "only be merged"
            ) from error
        for node in program.graph.nodes:
            for key in TRACES:
                node.meta.pop(key, None)
        return program


def _name(label: str, more: int) -> str:
    return f"{label} + {more}" if more else label


def _record(name: str, value: Tensor, varying: Mapping[int, str]) -> TensorRecord:
    shape: list[int | str] = [varying.get(dim, length) for dim, length in enumerate(value.shape)]
    return TensorRecord.model_validate({"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape})


def write_onnx(graph: Graph, path: Path, opset: int, half: bool) -> None:
    """Write a graph in ONNX's format, in one file.

    Args:
        graph: The graph.
        path: File to write.
        opset: Version of the operators, one of `OPSETS`.
        half: See `Graph.trace`.

    Raises:
        UserError: If it cannot be traced or translated, or is larger than the format takes.
    """
    require_onnx()
    program = graph.trace(half)
    try:
        with _quiet():
            found: Any = torch.onnx.export(
                program,
                (),
                None,
                dynamo=True,
                opset_version=opset,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                verbose=False,
            )
    except Exception as error:
        raise UserError(
            f"export: {graph.name} cannot be translated to ONNX ({first_line(error)}); try --format torch"
        ) from error
    size = sum(value.const_value.nbytes for value in found.model.graph.initializers.values() if value.const_value)
    if size > MOST_BYTES:
        raise UserError(
            f"export: {graph.name} has {size:,} bytes of weights, and an ONNX file takes {MOST_BYTES:,}; "
            "give --dtype fp16 or --format torch"
        )
    _forget_origin(found.model, graph)
    found.save(path, external_data=False)


def write_program(graph: Graph, path: Path, half: bool) -> None:
    """Write a graph as a program of `torch.export`, which `torch.export.load` opens without the network's code.

    Args:
        graph: The graph.
        path: File to write, `.pt2`.
        half: See `Graph.trace`.

    Raises:
        UserError: If it cannot be traced.
    """
    program = graph.trace(half)
    # the example would be written as a pickle
    program.example_inputs = None
    with _quiet(), io.BytesIO() as buffer:
        torch.export.save(program, buffer)
        path.write_bytes(buffer.getvalue())


def require_onnx() -> None:
    """Check that what writes ONNX is installed.

    Raises:
        UserError: If a package is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"format: onnx needs {', '.join(missing)}; pip install -e '.[export]', or give --format torch")


def _forget_origin(model: Any, graph: Graph) -> None:
    """Take out what names files of this machine, and give the dimensions that vary their names."""
    names = {}
    for value, key in zip(model.graph.inputs, graph.inputs, strict=True):
        for dim, name in graph.dynamic[key].items():
            names[str(value.shape[dim])] = name
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for part in (model, model.graph, *model.functions.values(), *model.graph.inputs, *model.graph.outputs):
        part.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _name_dims(value, names)
    for value in (*model.graph.inputs, *model.graph.outputs):
        _name_dims(value, names)


def _name_dims(value: Any, names: Mapping[str, str]) -> None:
    if value.shape is None:
        return
    for index, dim in enumerate(value.shape):
        if str(dim) in names:
            value.shape[index] = names[str(dim)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.export and torch.onnx report of their steps."""
    logs = [logging.getLogger(name) for name in LOGS]
    before = [log.level for log in logs]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for log in logs:
                log.setLevel(logging.ERROR)
            yield
        finally:
            for log, level in zip(logs, before, strict=True):
                log.setLevel(level)
