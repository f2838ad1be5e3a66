"""A folder as `export` writes it, made by hand in a moment."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eomt.export.opened import open_exported


def graph(size: int = 8, weight: TensorProto | None = None, classes: int = 2) -> bytes:
    """A graph as of a detector of morphs: the logits are -b and b, b being the mean brightness."""
    tensor = helper.make_tensor_value_info
    signs = np.tile(np.array([[-1.0, 1.0]], np.float32), (1, classes // 2))
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("MatMul", ["column", "signs"], ["logits"]),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        numpy_helper.from_array(np.array([1]), "last"),
        weight or numpy_helper.from_array(signs, "signs"),
    ]
    made = helper.make_graph(
        nodes,
        "model",
        [tensor("image", TensorProto.UINT8, ["batch", 3, size, size])],
        [tensor("logits", TensorProto.FLOAT, ["batch", None]), tensor("scores", TensorProto.FLOAT, ["batch"])],
        constants,
    )
    return onnx.ModelProto(ir_version=10, graph=made, opset_import=[helper.make_opsetid("", 18)]).SerializeToString()


def write(folder: Path, content: bytes | None = None, **changes: Any) -> Path:
    """A folder as `export` writes one, with the fields of its record changed."""
    content = graph() if content is None else content
    (folder / "model.onnx").write_bytes(content)
    of_graph = {
        "name": "model",
        "file": "model.onnx",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": [{"name": "image", "dtype": "uint8", "shape": ["batch", 3, 8, 8]}],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["batch", 2]},
            {"name": "scores", "dtype": "float32", "shape": ["batch"]},
        ],
        "weights": None,
    }
    record = {
        "version": 1, "format": "onnx", "dtype": "fp32", "opset": 18, "source": "a.ckpt", "network": "MorphDetector",
        "img_size": [8, 8], "versions": {}, "settings": {"task": "morph_detection", "threshold": 0.5}, "checks": {},
    }  # fmt: skip
    for name in set(changes) & set(of_graph):
        of_graph[name] = changes.pop(name)
    (folder / "export.json").write_text(json.dumps(record | {"graphs": [of_graph]} | changes))
    return folder


def write_record(folder: Path) -> Path:
    """A whole folder; returns its record."""
    return write(folder) / "export.json"


def write_graph(folder: Path) -> Path:
    """A whole folder; returns its graph."""
    return write(folder) / "model.onnx"


def read_exported(file: Path) -> None:
    """Opens the folder of a file, and asks for an answer."""
    open_exported(file.parent).predict(np.zeros((8, 8, 3), np.uint8))


def read_forged(file: Path) -> None:
    """Opens a graph that is the one that its record names, whatever it holds."""
    # of a pipe there is no content to name
    open_exported(write(file.parent, file.read_bytes()) if file.is_file() else file.parent)
