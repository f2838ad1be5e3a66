"""Graphs that run: onnxruntime, and OpenVINO where it is asked for."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eomt.errors import UserError, first_line
from eomt.export.record import REMEDY, GraphRecord, Record, TensorRecord, read_graph

# dtypes of inputs and outputs
DTYPES = {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32}
ONNX_TYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}


class Session:
    """A graph that runs on tensors of the CPU.

    Args:
        record: What the graph is said to be.
        place: Path of its file, for messages.
    """

    def __init__(self, record: GraphRecord, place: str) -> None:
        self.record, self.place = record, place

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for inputs by their names, in the order of the record.

        Raises:
            UserError: If the graph fails, or answers in other shapes than its record says.
        """
        lengths: dict[str, int] = {}
        for tensor in self.record.inputs:
            _check_shape(self.place, tensor, inputs[tensor.name], lengths)
        try:
            found = self._run({name: value.contiguous().numpy() for name, value in inputs.items()})
        except Exception as error:
            raise UserError(f"{self.place}: does not run ({first_line(error)}); {REMEDY}") from error
        answers = tuple(torch.from_numpy(value) for value in found)
        for tensor, value in zip(self.record.outputs, answers, strict=True):
            _check_shape(self.place, tensor, value, lengths)
        return answers

    def _run(self, inputs: dict[str, Any]) -> list[Any]:
        raise NotImplementedError


class OnnxSession(Session):
    """A graph that onnxruntime runs on the CPU.

    Args:
        record: See Session.
        place: See Session.
        content: The file; weights outside of it are not read.

    Raises:
        UserError: If onnxruntime is not installed, or the file is no graph as the record says.
    """

    def __init__(self, record: GraphRecord, place: str, content: bytes) -> None:
        super().__init__(record, place)
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"{place}: onnxruntime cannot open it ({first_line(error)}); {REMEDY}") from error
        for kind, said, found in (
            ("inputs", record.inputs, self.session.get_inputs()),
            ("outputs", record.outputs, self.session.get_outputs()),
        ):
            expected = [(tensor.name, tensor.dtype) for tensor in said]
            if expected != [(tensor.name, ONNX_TYPES.get(tensor.type)) for tensor in found]:
                raise UserError(f"{place}: its {kind} are not those that export.json names; {REMEDY}")
        self.names = [tensor.name for tensor in record.outputs]

    def _run(self, inputs: dict[str, Any]) -> list[Any]:
        return self.session.run(self.names, inputs)


class OpenVINOSession(Session):
    """A graph that OpenVINO runs on the CPU, in fp32.

    Args:
        record: See Session.
        place: See Session.
        content: The file, of ONNX or of OpenVINO.
        weights: The file of weights beside it, for OpenVINO's own.

    Raises:
        UserError: If OpenVINO is not installed, or cannot open the file.
    """

    def __init__(self, record: GraphRecord, place: str, content: bytes, weights: bytes = b"") -> None:
        super().__init__(record, place)
        core = require("openvino").Core()
        # else it takes bf16 on CPUs that have it
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            model = core.read_model(content, weights)
            self.model = core.compile_model(model, "CPU", settings)
            self.outputs = [self.model.output(tensor.name) for tensor in record.outputs]
        except Exception as error:
            raise UserError(f"{place}: OpenVINO cannot open it ({first_line(error)}); {REMEDY}") from error

    def _run(self, inputs: dict[str, Any]) -> list[Any]:
        found = self.model(inputs)
        return [found[output].copy() for output in self.outputs]


def open_sessions(folder: Path, record: Record) -> dict[str, Session]:
    """Return the graphs of a folder by their names.

    Raises:
        UserError: If a file is missing or another one, or what runs it is not installed.
    """
    sessions: dict[str, Session] = {}
    for graph in record.graphs:
        place = str(folder / graph.file)
        content = read_graph(folder, graph)
        if record.format == "onnx":
            sessions[graph.name] = OnnxSession(graph, place, content)
        elif record.format == "openvino" and graph.weights is not None:
            sessions[graph.name] = OpenVINOSession(graph, place, content, read_graph(folder, graph.weights))
        else:
            raise UserError(f"{place}: a program of PyTorch; open it with torch.export.load, or export --format onnx")
    return sessions


def require(name: str) -> Any:
    """Return a library.

    Raises:
        UserError: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "export" if name == "onnxruntime" else name
        raise UserError(f"{name}: is not installed; pip install {name}, or the extra {extra!r} of eomt") from error


def _check_shape(place: str, said: TensorRecord, value: Tensor, lengths: dict[str, int]) -> None:
    """Check the shape of a tensor; a named dimension has one length in all of them.

    Raises:
        UserError: If it is another.
    """
    fits = value.dtype == DTYPES[said.dtype] and value.ndim == len(said.shape)
    if not fits or any(
        length != (lengths.setdefault(dim, length) if isinstance(dim, str) else dim)
        for dim, length in zip(said.shape, value.shape, strict=True)
    ):
        raise UserError(f"{place}: {said.name!r} is {list(value.shape)}, and export.json says {said.shape}; {REMEDY}")
