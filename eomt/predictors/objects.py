"""The objects, or the segments, of images of any size."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, overload

import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.models.post_processing import find_instances, find_segments
from eomt.predictors.inputs import NamedImage, Source, Sources
from eomt.predictors.predictor import Predictor
from eomt.results import InstanceResult, PanopticResult
from eomt.results.objects import instance_result, panoptic_result
from eomt.utils.windows import fit_image


class QueryModel(Protocol):
    """A model whose queries say a mask and a class each; in PyTorch, or an exported graph."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of a window."""

    def queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits `(K, Q, h, w)` and class logits `(K, Q, C + 1)` of windows, uint8 `(K, 3, H, W)`."""


class InstancePredictor(Predictor[InstanceResult]):
    """Instance segmentation: an image is fitted into one window.

    Args:
        model: Says what queries find.
        class_names: Names of the classes.
        device: Where the model computes.
        score_threshold: The least score of an object.
        max_detections: The most objects of an image.
    """

    def __init__(
        self,
        model: QueryModel,
        class_names: Sequence[str],
        device: torch.device,
        score_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        self.model, self.class_names, self.device = model, list(class_names), device
        self.score_threshold, self.max_detections = score_threshold, max_detections

    @overload
    def predict(self, images: Source, threshold: float | None = None) -> InstanceResult: ...

    @overload
    def predict(self, images: Sources, threshold: float | None = None) -> list[InstanceResult]: ...

    def predict(
        self, images: Source | Sources, threshold: float | None = None
    ) -> InstanceResult | list[InstanceResult]:
        """Return the objects of one image, or of each image of a list of any sizes.

        Args:
            images: See `eomt.predictors.inputs.read`.
            threshold: The least score of an object, 0 to 1; None takes that of the model.

        Raises:
            UserError: For an image that cannot be read, or an impossible threshold.
        """
        return self._answers(images, partial(self._of_batch, threshold=checked(threshold, self.score_threshold)))

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], threshold: float) -> list[InstanceResult]:
        found = []
        for image, masks, classes in answers(self.model, images, self.device):
            answer = find_instances(masks, classes, self.model.img_size, image.size, self.max_detections, threshold)
            found.append(instance_result(answer, image.array, self.class_names, image.name))
        return found


class PanopticPredictor(Predictor[PanopticResult]):
    """Panoptic segmentation: an image is fitted into one window.

    Args:
        model: Says what queries find.
        class_names: Names of the classes.
        device: Where the model computes.
        stuff_classes: Class ids of stuff.
        score_threshold: The class probability that a query must exceed.
        overlap_threshold: The least area that a query gets, as a share of its own mask.
    """

    def __init__(
        self,
        model: QueryModel,
        class_names: Sequence[str],
        device: torch.device,
        stuff_classes: Sequence[int] = (),
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ) -> None:
        self.model, self.class_names, self.device = model, list(class_names), device
        self.stuff_classes = list(stuff_classes)
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold

    @overload
    def predict(self, images: Source, threshold: float | None = None) -> PanopticResult: ...

    @overload
    def predict(self, images: Sources, threshold: float | None = None) -> list[PanopticResult]: ...

    def predict(
        self, images: Source | Sources, threshold: float | None = None
    ) -> PanopticResult | list[PanopticResult]:
        """Return the segments of one image, or of each image of a list of any sizes.

        Args:
            images: See `eomt.predictors.inputs.read`.
            threshold: The class probability that a query must exceed, 0 to 1; None takes that of the model.

        Raises:
            UserError: For an image that cannot be read, or an impossible threshold.
        """
        return self._answers(images, partial(self._of_batch, threshold=checked(threshold, self.score_threshold)))

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], threshold: float) -> list[PanopticResult]:
        found = []
        for image, masks, classes in answers(self.model, images, self.device):
            window, stuff = self.model.img_size, self.stuff_classes
            answer = find_segments(masks, classes, window, image.size, stuff, threshold, self.overlap_threshold)
            found.append(panoptic_result(answer, image.array, self.class_names, stuff, image.name))
        return found


def answers(
    model: QueryModel, images: Sequence[NamedImage], device: torch.device
) -> Iterator[tuple[NamedImage, Tensor, Tensor]]:
    """Yield each image with its mask logits, `(Q, h, w)`, and class logits, `(Q, C + 1)`."""
    windows = torch.stack([fit_image(image.pixels, model.img_size) for image in images])
    yield from zip(images, *model.queries(windows.to(device)), strict=True)


def checked(threshold: float | None, default: float) -> float:
    """Return a threshold, or the default for None.

    Raises:
        UserError: If it is no number from 0 to 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold: {threshold}; must be 0 to 1")
    return default if threshold is None else threshold
