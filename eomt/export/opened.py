"""The predictor of an exported folder."""

from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch

from eomt.errors import UserError, listed
from eomt.export.answering_runtime import GraphAnswerer
from eomt.export.prompted_runtime import GraphSAM2
from eomt.export.record import (
    RECORD_FILE,
    REMEDY,
    AnsweringSettings,
    ClassificationSettings,
    EncoderSettings,
    InstanceSettings,
    MorphSettings,
    PanopticSettings,
    PromptedSettings,
    QuerySettings,
    Record,
    SegmentationSettings,
    read_record,
)
from eomt.export.runtime import GraphClassifier, GraphMorphScorer, GraphQueries, GraphScorer
from eomt.export.sessions import Session, open_sessions
from eomt.export.tokens import read_tokens
from eomt.predictors.answers import AnswerPredictor
from eomt.predictors.classes import ClassPredictor
from eomt.predictors.faces import MorphPredictor
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.predictors.predictor import Predictor
from eomt.predictors.segmentation import SegmentationPredictor
from eomt.utils.windows import View

CPU = torch.device("cpu")
Shape = list[int | str]


def open_exported(folder: Path) -> Predictor[Any]:
    """Return the predictor of an exported folder, whose graphs run on the CPU.

    Raises:
        UserError: If the folder is damaged or forged, or what runs it is not installed.
    """
    record = read_record(folder)
    predictor: Predictor[Any] = _predictor_of(record.settings, record, folder)
    predictor.source = str(folder)
    predictor.conversion = record.images.conversion
    return predictor


@singledispatch
def _predictor_of(settings: Any, record: Record, folder: Path) -> Any:
    raise AssertionError(f"no predictor for {type(settings).__name__}")


@_predictor_of.register
def _(settings: SegmentationSettings, record: Record, folder: Path) -> Predictor[Any]:
    shape: Shape = ["batch", len(settings.class_names) + 1, *record.img_size]
    model = GraphScorer(_sessions(folder, record, {"model": [shape]}), record.img_size)
    views = [View(**view.model_dump()) for view in settings.views]
    return SegmentationPredictor(
        model, settings.class_names, CPU, views, settings.window_batch_size, settings.temperature, settings.normalize
    )


@_predictor_of.register
def _(settings: InstanceSettings, record: Record, folder: Path) -> Predictor[Any]:
    model = _queries(settings, record, folder)
    return InstancePredictor(model, settings.class_names, CPU, settings.score_threshold, settings.max_detections)


@_predictor_of.register
def _(settings: PanopticSettings, record: Record, folder: Path) -> Predictor[Any]:
    model, names = _queries(settings, record, folder), settings.class_names
    thresholds = settings.score_threshold, settings.overlap_threshold
    return PanopticPredictor(model, names, CPU, settings.stuff_classes, *thresholds)


def _queries(settings: QuerySettings, record: Record, folder: Path) -> GraphQueries:
    count = settings.num_queries
    shapes: list[Shape] = [["batch", count, *settings.mask_size], ["batch", count, len(settings.class_names) + 1]]
    return GraphQueries(_sessions(folder, record, {"model": shapes}), record.img_size)


@_predictor_of.register
def _(settings: MorphSettings, record: Record, folder: Path) -> Predictor[Any]:
    sessions = _sessions(folder, record, {"model": [["batch", 2], ["batch"]]})
    return MorphPredictor(GraphMorphScorer(sessions, record.img_size), settings.threshold, CPU)


@_predictor_of.register
def _(settings: ClassificationSettings, record: Record, folder: Path) -> Predictor[Any]:
    shape: Shape = ["batch", len(settings.class_names)]
    sessions = _sessions(folder, record, {"model": [shape, shape]})
    return ClassPredictor(GraphClassifier(sessions, record.img_size, settings.multi_label), settings.class_names, CPU)


@_predictor_of.register
def _(settings: PromptedSettings, record: Record, folder: Path) -> Predictor[Any]:
    # it loads the tasks, and with them Lightning, which no other graph waits for
    from eomt.predictors.prompted import PromptedPredictor

    outputs: dict[str, list[Shape]] = {
        "image_encoder": [],
        "prompt_decoder": [["batch", "objects", 4, *settings.mask_size], ["batch", "objects", 4]],
    }
    if settings.prompt_free:
        count = len(settings.class_names)
        outputs["class_decoder"] = [["batch", count, 1, *settings.mask_size], ["batch", count, 1]]
    model = GraphSAM2(_sessions(folder, record, outputs), record.img_size, settings)
    return PromptedPredictor(model, settings.class_names, CPU)


@_predictor_of.register
def _(settings: EncoderSettings, record: Record, folder: Path) -> Predictor[Any]:
    raise UserError(f"{folder}: an encoder, which predicts nothing by itself; its example.py shows how it runs")


@_predictor_of.register
def _(settings: AnsweringSettings, record: Record, folder: Path) -> Predictor[Any]:
    tokens, generation = read_tokens(settings, record, folder), settings.generation
    outputs: dict[str, list[Shape]] = {"vision_encoder": []}
    if generation is None:
        outputs["answer"] = [["batch", len(settings.answers or ())]]
    else:
        outputs |= {"text_encoder": [], "decoder": [["batch", generation.vocabulary]]}
    model = GraphAnswerer(_sessions(folder, record, outputs), record.img_size, settings, tokens)
    if generation is None:
        return AnswerPredictor(model, tokens, CPU)
    return AnswerPredictor(model, tokens, CPU, generation.num_beams, generation.max_new_tokens)


def _sessions(folder: Path, record: Record, outputs: Mapping[str, list[Shape]]) -> dict[str, Session]:
    """Return the graphs of a folder, by their names.

    Args:
        folder: The folder.
        record: What it says of itself.
        outputs: The graphs that its task needs, with the shapes of their first outputs.

    Raises:
        UserError: If they are not those, or cannot be opened.
    """
    said = {graph.name: [tensor.shape for tensor in graph.outputs] for graph in record.graphs}
    if set(said) != set(outputs) or any(said[name][: len(shapes)] != shapes for name, shapes in outputs.items()):
        raise UserError(
            f"{folder / RECORD_FILE}: graphs {listed(said)} with these outputs do not fit {record.settings.task}; "
            f"{REMEDY}"
        )
    return open_sessions(folder, record)
