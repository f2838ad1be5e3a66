"""What is read of the JSON files of a run; runs of 0.1.0 lack what is not required."""

from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from eomt.utils.reading import Count, Number

REMEDY = "restore it, or repeat the run"


class Base(TypedDict):
    """The weights that a run began with."""

    id: NotRequired[str | None]
    fingerprint: NotRequired[str | None]


class Summary(TypedDict):
    """What is read of `training_summary.json`."""

    metric: str
    baseline: Number | None
    best: Number | None
    best_step: Count | None
    trainable_parameters: Count
    total_parameters: Annotated[int, Field(ge=1)]
    adapter_bytes: Count | None
    merged_bytes: Count | None
    merge_relative_diff: Number | None
    audit: str
    stopped_early: NotRequired[str | None]
    notes: NotRequired[list[str]]
    seconds: Number
    task: NotRequired[str]
    mode: NotRequired[str]
    steps: NotRequired[Count]
    lora_parameters: NotRequired[Count]
    adapted_modules: NotRequired[Count]
    base: NotRequired[Base]
    data: NotRequired[dict[str, dict[str, Count]] | None]
    seed: NotRequired[int | None]
    versions: NotRequired[dict[str, str]]
    command: NotRequired[str]
    machine: NotRequired[str]


class Evaluation(TypedDict):
    """What is read of the results of a test."""

    weights: str | None
    metrics: dict[str, Number | None]
    notes: NotRequired[list[str]]
    task: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    command: NotRequired[str]
    machine: NotRequired[str]


class Example(TypedDict):
    """A test image that a page shows."""

    name: str
    file: str
    figure: Number
    lines: list[str]


class Color(TypedDict):
    """The color of a class in pictures."""

    name: str
    color: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]


class Examples(TypedDict):
    """The test images with the highest and the lowest figure, the best ones first and the worst ones first."""

    caption: str
    picture: str
    legend: list[Color]
    best: list[Example]
    worst: list[Example]


SUMMARY_FILE, EVALUATION_FILE = TypeAdapter(Summary), TypeAdapter(Evaluation)
EXAMPLES_FILE = TypeAdapter(Examples)
SPLIT_FILE: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
