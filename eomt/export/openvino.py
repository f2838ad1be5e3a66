"""OpenVINO's own files: a graph, and its weights beside it."""

from pathlib import Path

from eomt.errors import UserError, first_line
from eomt.export.graph import Graph, write_onnx
from eomt.export.sessions import require


def write_openvino(graph: Graph, path: Path, opset: int, half: bool) -> Path:
    """Write a graph as OpenVINO's `.xml`, and return the path of the weights beside it.

    Args:
        graph: The graph.
        path: File to write.
        opset: Of the ONNX that it is made of.
        half: Keep weights in 16 bits.

    Raises:
        UserError: If it cannot be translated.
    """
    openvino = require("openvino")
    between = path.with_suffix(".onnx")
    write_onnx(graph, between, opset, half=False)
    try:
        openvino.save_model(openvino.convert_model(between), path, compress_to_fp16=half)
    except Exception as error:
        raise UserError(f"export: {graph.name} cannot be translated to OpenVINO ({first_line(error)})") from error
    finally:
        between.unlink()
    return path.with_suffix(".bin")
