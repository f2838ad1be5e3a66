"""What `export` is asked for, checked before anything is built."""

from dataclasses import dataclass, fields
from pathlib import Path

from eomt.errors import UserError, shortened
from eomt.export.graph import OPSETS, require_onnx
from eomt.export.record import RECORD_FILE, TOKENIZER, is_exported, read_record
from eomt.export.sessions import require
from eomt.utils.files import is_empty

FORMATS = ("onnx", "openvino", "torch", "safetensors")
DTYPES = ("fp32", "fp16")
CHECKS = ("onnxruntime", "openvino")
# beside graphs, in the folder that is written
OTHER_FILES = frozenset({RECORD_FILE, "preprocessor_config.json", "example.py", "README.md"})
OTHER_FOLDERS = frozenset({TOKENIZER})


@dataclass(frozen=True)
class ExportOptions:
    """What is written, and how it is compared.

    Attributes:
        format: One of `FORMATS`.
        dtype: Precision inside of the graphs; inputs and outputs are in fp32.
        opset: Version of ONNX's operators.
        anomaly: Anomaly scores that a graph of semantic segmentation computes, too.
        limit: Validation samples on which the metric is compared, at most.
        check: Further runtimes that must give the same answers.

    Raises:
        UserError: For a value that is not allowed, or a package that is missing.
    """

    format: str = "onnx"
    dtype: str = "fp32"
    opset: int = 18
    anomaly: tuple[str, ...] = ()
    limit: int = 64
    check: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format in ("tensorrt", "trt", "engine"):
            raise UserError(
                f"format: {self.format} is built on the GPU that will run it; give --format onnx, and there "
                "trtexec --onnx=model.onnx --saveEngine=model.engine"
            )
        if self.format not in FORMATS:
            raise UserError(f"format: {shortened(self.format)!r}; must be {', '.join(FORMATS)}")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: {shortened(self.dtype)!r}; must be {', '.join(DTYPES)}")
        if self.opset not in OPSETS:
            raise UserError(f"opset: {self.opset}; must be {OPSETS[0]} to {OPSETS[-1]}")
        if self.limit < 1:
            raise UserError(f"limit: {self.limit}; must be at least 1 validation sample")
        if unknown := sorted(set(self.check) - set(CHECKS)):
            raise UserError(f"check: {shortened(unknown[0])!r}; must be some of {', '.join(CHECKS)}")
        if self.check and self.format != "onnx":
            raise UserError(
                f"check: {', '.join(self.check)} with --format {self.format}; it runs ONNX, so leave it out"
            )
        if self.format == "safetensors" and (self.dtype, self.anomaly) != ("fp32", ()):
            raise UserError("format: safetensors holds weights in fp32 and no graph; leave --dtype and --anomaly out")
        if self.format in ("onnx", "openvino"):
            require_onnx()
        if self.format == "openvino" or "openvino" in self.check:
            require("openvino")


# fields of `export` alone
EXPORT_FIELDS = tuple(field.name for field in fields(ExportOptions))


def is_export_folder(folder: Path) -> bool:
    """Return whether a folder holds what `export` wrote and nothing else, so that it can be replaced."""
    if not folder.is_dir() or not is_exported(folder):
        return False
    try:
        record = read_record(folder)
    except UserError:
        return False
    files = {graph.file for graph in record.graphs} | {
        graph.weights.file for graph in record.graphs if graph.weights is not None
    }
    return {path.name for path in folder.iterdir()} <= files | OTHER_FILES | OTHER_FOLDERS


def check_export_output(output: str | None) -> None:
    """Check that graphs can be written to a folder, before anything is built.

    Raises:
        UserError: If no folder is given, or something else is there.
    """
    if output is None:
        raise UserError("output: null; give the folder that the graphs are written to: --output FOLDER")
    folder = Path(output)
    if folder.exists() and not is_empty(folder) and not is_export_folder(folder):
        raise UserError(f"output: {folder} exists and is no exported model; choose another folder")
    if folder.suffix and not folder.is_dir():
        raise UserError(f"output: {folder}; give a folder, which gets graphs and what describes them")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"output: {above} is a file; choose another folder")
