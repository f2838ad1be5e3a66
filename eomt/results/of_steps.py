"""What the steps of `predict` return, as the results that `eomt.load` gives, too."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eomt.results.answers import AnswerResult, MorphResult, ReconstructionResult
from eomt.results.classes import ClassificationResult
from eomt.results.objects import instance_result, panoptic_result
from eomt.results.prompted import masks_result
from eomt.results.result import Result
from eomt.results.segmentation import SegmentationResult
from eomt.tasks import (
    ImageClassification,
    InstanceSegmentation,
    MaskedAutoencoding,
    MorphDetection,
    PanopticSegmentation,
    VisualQuestionAnswering,
)
from eomt.utils.images import shown_channels


@singledispatch
def step_results(
    task: nn.Module, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]
) -> Iterator[Result]:
    """Yield what a step of `predict` found of each sample that has a name, in their order; nothing for other tasks.

    The images of the results are black: they stand for the size alone.

    Args:
        task: The task.
        batch: As the data module makes it.
        outputs: What the step returned; maps of class ids as `prediction`, if it is of no task of this package.
        class_names: Names of the classes.
    """
    if not isinstance(outputs, Mapping) or "prediction" not in outputs:
        return
    for index, name in named(batch):
        found = outputs["prediction"][index].cpu().numpy()
        if "objects" in outputs:
            prompts = outputs["prompts"][index] if outputs["prompts"] else None
            yield masks_result(outputs["objects"][index], black(found.shape), class_names, prompts, name)
        else:
            yield SegmentationResult(black(found.shape), found, class_names, name=name)


@step_results.register
def _(
    task: InstanceSegmentation, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]
) -> Iterator[Result]:
    for index, name in named(batch):
        found = outputs["found"][index]
        yield instance_result(found, black(batch["image"][index].shape[-2:]), class_names, name)


@step_results.register
def _(
    task: PanopticSegmentation, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]
) -> Iterator[Result]:
    for index, name in named(batch):
        found = outputs["found"][index]
        size = batch["image"][index].shape[-2:]
        yield panoptic_result(found, black(size), class_names, task.stuff_classes, name)


@step_results.register
def _(task: MorphDetection, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]) -> Iterator[Result]:
    threshold = None if math.isnan(task.threshold) else task.threshold
    scores, processed = outputs["scores"].tolist(), outputs["processed"].tolist()
    for index, name in named(batch):
        size = batch["image"].shape[-2:]
        yield MorphResult(black(size), scores[index], threshold, processed[index], name=name)


@step_results.register
def _(
    task: ImageClassification, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]
) -> Iterator[Result]:
    probabilities = outputs["probabilities"].cpu().numpy()
    for index, name in named(batch):
        size, several = batch["image"].shape[-2:], task.network.multi_label
        yield ClassificationResult(black(size), probabilities[index], class_names, several, name=name)


@step_results.register
def _(
    task: VisualQuestionAnswering, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]
) -> Iterator[Result]:
    images = [batch["image_name"][place] for place in batch["image_index"].tolist()]
    for index, _ in named(batch):
        size, question = batch["image"].shape[-2:], batch["question"][index]
        yield AnswerResult(black(size), question, outputs["predicted"][index], name=images[index])


@step_results.register
def _(task: MaskedAutoencoding, batch: Mapping[str, Any], outputs: Any, class_names: Sequence[str]) -> Iterator[Result]:
    for index, name in named(batch):
        seen, masked, rebuilt = (_array(part[index]) for part in outputs)
        yield ReconstructionResult(seen, masked, rebuilt, name=name)


def named(batch: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return place and name of the samples that have a name; the others are padding."""
    return [(index, name) for index, name in enumerate(batch["name"]) if name]


def black(size: Sequence[int]) -> np.ndarray:
    """Return a black image of a size (height, width), uint8 `(H, W, 3)`, which takes no memory."""
    return np.broadcast_to(np.uint8(0), (*size, 3))


def _array(image: Tensor) -> np.ndarray:
    return shown_channels(image).permute(1, 2, 0).to("cpu", torch.uint8).numpy()
