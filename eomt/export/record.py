"""`export.json`: what an exported folder says of itself, and the reader that believes nothing of it."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, field_validator, model_validator

from datamodules.common.conversion import Conversion
from eomt.errors import UserError
from eomt.metrics.anomaly_scores import SCORES
from eomt.utils.reading import check_regular, read_json

RECORD_FILE = "export.json"
# folder beside the graphs
TOKENIZER = "tokenizer"
REMEDY = "give a folder that `export` wrote"
# of the formats that a runtime opens, and of the program
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
# the largest graph that is read
MOST_BYTES = 2**32
# plain names in the folder itself: no separators, no "..", nothing hidden
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}\.(onnx|xml|bin|pt2)")

TOKENIZER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}\.(json|txt|model|jinja)")

Format = Literal["onnx", "openvino", "torch"]
DType = Literal["fp32", "fp16"]
Side = Annotated[int, Field(ge=1, le=2**16)]
Size = tuple[Side, Side]
Names = Annotated[list[str], Field(max_length=2**17)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


class Part(BaseModel):
    """What has no fields beside its own."""

    model_config = ConfigDict(extra="forbid")


class TensorRecord(Part):
    """An input or output: the name of a dimension stands for any length."""

    name: str
    dtype: Literal["uint8", "int64", "float32"]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)] | str], Field(max_length=8)]


class FileRecord(Part):
    """A file, with what it must be."""

    file: str
    bytes: Annotated[int, Field(ge=1, le=MOST_BYTES)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @field_validator("file")
    @classmethod
    def _is_in_the_folder(cls, value: str) -> str:
        if not FILE_NAME.fullmatch(value):
            raise ValueError("must be the plain name of a graph in this folder")
        return value

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """Return the record of a file that was written."""
        content = path.read_bytes()
        return cls(file=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class TokenizerRecord(FileRecord):
    """A file in the folder `tokenizer`."""

    @field_validator("file")
    @classmethod
    def _is_in_the_folder(cls, value: str) -> str:
        if not TOKENIZER_NAME.fullmatch(value):
            raise ValueError("must be the plain name of a tokenizer's file")
        return value


class GraphRecord(FileRecord):
    """A graph."""

    name: str
    inputs: Annotated[list[TensorRecord], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[TensorRecord], Field(min_length=1, max_length=16)]
    # weights beside it, which OpenVINO has
    weights: FileRecord | None = None


class ImagesRecord(Part):
    """How stored values become what graphs take, see `datamodules.common.conversion`."""

    intensity: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | str | None = None
    channels: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=1024)] | None = None
    page: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    @property
    def conversion(self) -> Conversion | None:
        """The same as what reads; None for RGB of 8 bits."""
        return Conversion.of_settings(self.model_dump(), f"{RECORD_FILE}: images")


class ViewRecord(Part):
    """How the windows of an image are laid, see `eomt.utils.windows.View`."""

    scale: Annotated[FiniteFloat, Field(ge=1, le=8)]
    flip: bool
    overlap: Annotated[FiniteFloat, Field(ge=0, lt=1)]


class SegmentationSettings(Part):
    """Of semantic segmentation."""

    task: Literal["semantic_segmentation"] = "semantic_segmentation"
    class_names: Annotated[Names, Field(min_length=1)]
    views: Annotated[list[ViewRecord], Field(min_length=1, max_length=64)]
    window_batch_size: Annotated[int, Field(ge=1, le=4096)]
    temperature: Positive
    normalize: bool
    anomaly: list[Literal[SCORES]]  # type: ignore[valid-type]


class QuerySettings(Part):
    """Of a graph whose queries say a mask and a class each."""

    class_names: Annotated[Names, Field(min_length=1)]
    num_queries: Annotated[int, Field(ge=1, le=2**16)]
    mask_size: Size
    score_threshold: Share


class InstanceSettings(QuerySettings):
    """Of instance segmentation."""

    task: Literal["instance_segmentation"] = "instance_segmentation"
    max_detections: Annotated[int, Field(ge=1, le=2**16)]


class PanopticSettings(QuerySettings):
    """Of panoptic segmentation."""

    task: Literal["panoptic_segmentation"] = "panoptic_segmentation"
    stuff_classes: Annotated[list[Annotated[int, Field(ge=0, lt=2**17)]], Field(max_length=2**17)]
    overlap_threshold: Share


class MorphSettings(Part):
    """Of the detection of morphs."""

    task: Literal["morph_detection"] = "morph_detection"
    threshold: FiniteFloat | None


class ClassificationSettings(Part):
    """Of image classification."""

    task: Literal["image_classification"] = "image_classification"
    class_names: Annotated[Names, Field(min_length=1)]
    multi_label: bool


class PromptedSettings(Part):
    """Of SAM 2."""

    task: Literal["prompted_segmentation"] = "prompted_segmentation"
    class_names: Names
    mask_size: Size
    prompt_free: bool


class EncoderSettings(Part):
    """Of an encoder alone."""

    task: Literal["masked_autoencoding"] = "masked_autoencoding"


class GenerationRecord(Part):
    """How a decoder writes an answer; see `eomt.export.decoding`."""

    vocabulary: Annotated[int, Field(ge=1, lt=2**31)]
    start: Token
    ends: Annotated[list[Token], Field(min_length=1, max_length=16)]
    num_beams: Annotated[int, Field(ge=1, le=1024)]
    max_new_tokens: Annotated[int, Field(ge=1, le=2**16)]


class AnsweringSettings(Part):
    """Of visual question answering: answers to choose from, or how they are written."""

    task: Literal["visual_question_answering"] = "visual_question_answering"
    answers: Annotated[Names, Field(min_length=1)] | None
    generation: GenerationRecord | None
    padding: Token
    max_question_tokens: Annotated[int, Field(ge=1, lt=2**31)]
    # spaces before punctuation are taken out of what was written
    cleans_up: bool

    @model_validator(mode="after")
    def _has_one_head(self) -> Self:
        if (self.answers is None) == (self.generation is None):
            raise ValueError("must have either answers or generation")
        return self


Settings = Annotated[
    SegmentationSettings
    | InstanceSettings
    | PanopticSettings
    | ClassificationSettings
    | MorphSettings
    | PromptedSettings
    | EncoderSettings
    | AnsweringSettings,
    Field(discriminator="task"),
]


class Comparison(Part):
    """What was compared before the folder was kept, PyTorch first."""

    samples: int
    source: str
    differences: dict[str, float]
    metrics: dict[str, tuple[float | None, float | None]]
    milliseconds: dict[str, tuple[float, float]]


class Record(Part):
    """What an exported folder says of itself."""

    version: Literal[1] = 1
    format: Format
    dtype: DType
    opset: Annotated[int, Field(ge=1, le=100)] | None
    source: str
    network: str
    img_size: Size
    # absent where they are RGB of 8 bits, and from folders that were written before it was asked
    images: ImagesRecord = ImagesRecord()
    versions: dict[str, str]
    graphs: Annotated[list[GraphRecord], Field(min_length=1, max_length=8)]
    settings: Settings
    tokenizer: Annotated[list[TokenizerRecord], Field(max_length=16)] = []
    checks: dict[str, Comparison]


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def is_exported(folder: Path) -> bool:
    """Return whether a folder says that it is an exported one."""
    return (folder / RECORD_FILE).is_file()


def read_record(folder: Path) -> Record:
    """Return what a folder says of itself.

    Raises:
        UserError: If that cannot be read, or is nothing that `export` writes.
    """
    return read_json(folder / RECORD_FILE, RECORD, REMEDY)


def read_graph(folder: Path, record: FileRecord) -> bytes:
    """Return the content of a file of a folder, if it is the one that was written.

    Raises:
        UserError: If it is missing, no plain file, or another one.
    """
    path = folder / record.file
    check_regular(path, REMEDY)
    if path.stat().st_size != record.bytes:
        raise UserError(f"{path}: has {path.stat().st_size} bytes, and {RECORD_FILE} says {record.bytes}; {REMEDY}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise UserError(f"{path}: is not the file that {RECORD_FILE} names (another SHA-256); {REMEDY}")
    return content
