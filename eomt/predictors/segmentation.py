"""The classes of an image's pixels, of images of any size."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol, overload

import torch
from torch import Tensor

from eomt.errors import UserError, listed
from eomt.metrics.anomaly_scores import SCORES, anomaly_maps
from eomt.predictors.inputs import NamedImage, Source, Sources
from eomt.predictors.predictor import Predictor
from eomt.results import SegmentationResult
from eomt.utils.labels import most_likely_classes
from eomt.utils.windows import ImageResult, View, WindowResult, over_views, over_windows


class WindowScorer(Protocol):
    """A model that scores the classes of windows; in PyTorch, or an exported graph."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of a window."""

    def window_scores(self, images: Tensor) -> Iterable[Tensor]:
        """Return a score for each class, and behind them one for "no object", of each window.

        Args:
            images: uint8 `(K, 3, h, w)`.

        Returns:
            K of `(C + 1, h, w)`, fp32.
        """


class SegmentationPredictor(Predictor[SegmentationResult]):
    """Semantic segmentation, in overlapping windows where an image is larger than one.

    Args:
        model: Scores windows.
        class_names: Names of the classes.
        device: Where the model computes.
        views: Sizes and mirrorings of the image, of which the mean is taken.
        window_batch_size: Windows that are computed at once.
        temperature: Of the anomaly scores MSP and entropy.
        normalize: Likewise, see `eomt.metrics.anomaly_scores.msp`.
    """

    def __init__(
        self,
        model: WindowScorer,
        class_names: Sequence[str],
        device: torch.device,
        views: Sequence[View] = (View(),),
        window_batch_size: int = 4,
        temperature: float = 1.0,
        normalize: bool = False,
    ) -> None:
        self.model, self.class_names, self.device = model, list(class_names), device
        self.views, self.window_batch_size = list(views), window_batch_size
        self.temperature, self.normalize = temperature, normalize

    @overload
    def predict(self, images: Source, anomaly: Sequence[str] = ()) -> SegmentationResult: ...

    @overload
    def predict(self, images: Sources, anomaly: Sequence[str] = ()) -> list[SegmentationResult]: ...

    def predict(
        self, images: Source | Sources, anomaly: Sequence[str] = ()
    ) -> SegmentationResult | list[SegmentationResult]:
        """Return the classes of the pixels of one image, or of a list of images of any sizes.

        Args:
            images: See `eomt.predictors.inputs.read`.
            anomaly: Scores whose maps are wanted too: msp, max_logit, entropy, energy, rba, void.

        Raises:
            UserError: For an image that cannot be read, or an unknown score.
        """
        names = [anomaly] if isinstance(anomaly, str) else list(anomaly)
        if unknown := set(names) - set(SCORES):
            raise UserError(f"anomaly: {listed(map(repr, sorted(unknown)))}; must be some of {', '.join(SCORES)}")
        return self._answers(images, partial(self._of_batch, anomaly=names))

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], anomaly: list[str]) -> list[SegmentationResult]:
        pixels = [image.pixels.to(self.device) for image in images]

        def evaluate(windows: Tensor, masks: Tensor | None) -> WindowResult:
            return WindowResult(self.model.window_scores(windows), None)

        def in_view(view: View) -> Iterator[ImageResult]:
            return over_windows(evaluate, pixels, None, self.model.img_size, self.window_batch_size, view)

        of_scores = partial(anomaly_maps, temperature=self.temperature, normalize=self.normalize)
        found = []
        for image, result in zip(images, over_views(self.views, in_view), strict=True):
            classes = most_likely_classes(result.maps[:-1]).cpu().numpy()
            maps = of_scores(anomaly, result.maps).float().cpu() if anomaly else ()
            of_image = {name: map_.numpy() for name, map_ in zip(anomaly, maps, strict=True)}
            found.append(SegmentationResult(image.array, classes, self.class_names, of_image, name=image.name))
        return found
