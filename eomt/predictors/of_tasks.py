"""The predictor of a task with its trained network."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.questions.tokens import TokenTable
from eomt.errors import UserError
from eomt.models.eomt import EoMT, Prediction, class_and_void_scores
from eomt.predictors.answers import AnswerPredictor
from eomt.predictors.classes import ClassPredictor
from eomt.predictors.faces import MorphPredictor, ReconstructionPredictor
from eomt.predictors.objects import InstancePredictor, PanopticPredictor
from eomt.predictors.predictor import Predictor
from eomt.predictors.prompted import PromptedPredictor
from eomt.predictors.segmentation import SegmentationPredictor
from eomt.tasks import (
    ImageClassification,
    InstanceSegmentation,
    MaskedAutoencoding,
    MorphDetection,
    PanopticSegmentation,
    PromptedSegmentation,
    SemanticSegmentation,
    VisualQuestionAnswering,
)


class EoMTScorer:
    """The class scores of windows, from an EoMT.

    Args:
        network: The network.
    """

    def __init__(self, network: EoMT) -> None:
        self.network = network
        self.img_size = network.img_size

    def window_scores(self, images: Tensor) -> Iterable[Tensor]:
        """See `eomt.predictors.segmentation.WindowScorer`; scores are made one window at a time."""
        found = self.network(images)[-1]
        parts = (Prediction(*(part[index : index + 1] for part in found)) for index in range(len(images)))
        return (class_and_void_scores(part, self.img_size)[0] for part in parts)


class EoMTQueries:
    """What the queries of an EoMT say of windows.

    Args:
        network: The network.
    """

    def __init__(self, network: EoMT) -> None:
        self.network = network
        self.img_size = network.img_size

    def queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `eomt.predictors.objects.QueryModel`."""
        found = self.network(images)[-1]
        return found.mask_logits, found.class_logits


@singledispatch
def predictor_of(task: nn.Module, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device) -> Any:
    """Return the predictor of a task.

    Args:
        task: A task whose network is filled, on its device and in evaluation mode.
        class_names: Names of its classes; empty where they are not known.
        data: Constructor arguments of the data that it was trained on, for what only they know: a tokenizer.
        device: Where the network is.

    Raises:
        UserError: If there is none for the task.
    """
    raise UserError(f"{type(task).__name__}: has no predictor; call its network")


@predictor_of.register
def _(
    task: SemanticSegmentation, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    names = class_names or [f"class {index}" for index in range(task.network.num_classes)]
    anomalies = task.anomalies
    return SegmentationPredictor(
        EoMTScorer(task.network),
        names,
        device,
        task.test_views,
        task.window_batch_size,
        anomalies.temperature,
        anomalies.normalize,
    )


@predictor_of.register
def _(
    task: InstanceSegmentation, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    names = class_names or [f"class {index}" for index in range(task.network.num_classes)]
    return InstancePredictor(EoMTQueries(task.network), names, device, task.score_threshold, task.max_detections)


@predictor_of.register
def _(
    task: PanopticSegmentation, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    names = class_names or [f"class {index}" for index in range(task.network.num_classes)]
    thresholds = task.score_threshold, task.overlap_threshold
    return PanopticPredictor(EoMTQueries(task.network), names, device, task.stuff_classes, *thresholds)


@predictor_of.register
def _(
    task: PromptedSegmentation, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    names = class_names or [f"class {index}" for index in range(task.network.num_classes or 0)]
    return PromptedPredictor(task.network, names, device)


@predictor_of.register
def _(
    task: MorphDetection, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    return MorphPredictor(task.network, None if math.isnan(task.threshold) else task.threshold, device)


@predictor_of.register
def _(
    task: ImageClassification, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    names = class_names or [f"class {index}" for index in range(task.network.num_classes)]
    return ClassPredictor(task.network, names, device)


@predictor_of.register
def _(
    task: MaskedAutoencoding, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    return ReconstructionPredictor(task.network, device)


@predictor_of.register
def _(
    task: VisualQuestionAnswering, class_names: Sequence[str], data: Mapping[str, Any], device: torch.device
) -> Predictor[Any]:
    tokens = TokenTable(data.get("tokenizer"), data.get("max_tokens"), data.get("language") or task.language)
    return AnswerPredictor(task.network, tokens, device, task.num_beams, task.max_answer_tokens)
