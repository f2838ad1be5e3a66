"""The predictor of an exported folder."""

from functools import singledispatch
from pathlib import Path
from typing import Any

import torch

from eomt.export.record import MorphSettings, Record, SegmentationSettings, read_record
from eomt.export.runtime import GraphMorphScorer, GraphScorer
from eomt.export.sessions import open_sessions
from eomt.predictors.faces import MorphPredictor
from eomt.predictors.predictor import Predictor
from eomt.predictors.segmentation import SegmentationPredictor
from eomt.utils.windows import View

CPU = torch.device("cpu")


def open_exported(folder: Path) -> Predictor[Any]:
    """Return the predictor of an exported folder, whose graphs run on the CPU.

    Raises:
        UserError: If the folder is damaged or forged, or what runs it is not installed.
    """
    record = read_record(folder)
    predictor: Predictor[Any] = _predictor_of(record.settings, record, folder)
    predictor.source = str(folder)
    return predictor


@singledispatch
def _predictor_of(settings: Any, record: Record, folder: Path) -> Any:
    raise AssertionError(f"no predictor for {type(settings).__name__}")


@_predictor_of.register
def _(settings: SegmentationSettings, record: Record, folder: Path) -> Predictor[Any]:
    model = GraphScorer(open_sessions(folder, record), record.img_size)
    views = [View(**view.model_dump()) for view in settings.views]
    return SegmentationPredictor(
        model, settings.class_names, CPU, views, settings.window_batch_size, settings.temperature, settings.normalize
    )


@_predictor_of.register
def _(settings: MorphSettings, record: Record, folder: Path) -> Predictor[Any]:
    return MorphPredictor(GraphMorphScorer(open_sessions(folder, record), record.img_size), settings.threshold, CPU)
