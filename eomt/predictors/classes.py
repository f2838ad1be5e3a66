"""Which class images are of."""

from collections.abc import Sequence
from typing import Protocol, overload

import torch
from torch import Tensor

from datamodules.classification.transforms import shown
from eomt.predictors.inputs import NamedImage, Source, Sources
from eomt.predictors.predictor import Predictor
from eomt.results import ClassificationResult


class ClassScorer(Protocol):
    """A model that scores images; in PyTorch, or an exported graph."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of its images."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of the classes."""

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of each class, fp32 `(B, C)`, for images, uint8 `(B, 3, H, W)`."""


class ClassPredictor(Predictor[ClassificationResult]):
    """Classification of whole images.

    Args:
        model: Scores images.
        class_names: By class id.
        device: Where the model computes.
    """

    batch_size = 16

    def __init__(self, model: ClassScorer, class_names: Sequence[str], device: torch.device) -> None:
        self.model, self.class_names, self.device = model, class_names, device

    @overload
    def predict(self, images: Source) -> ClassificationResult: ...

    @overload
    def predict(self, images: Sources) -> list[ClassificationResult]: ...

    def predict(self, images: Source | Sources) -> ClassificationResult | list[ClassificationResult]:
        """Return the classes of an image, or of each image of a list.

        Args:
            images: See `eomt.predictors.inputs.read`; the middle of each is seen, at the network's size.

        Raises:
            UserError: For an image that cannot be read.
        """
        return self._answers(images, self._of_batch)

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage]) -> list[ClassificationResult]:
        batch = torch.stack([shown(image.pixels, self.model.img_size) for image in images])
        scores = self.model.scores(batch.to(self.device)).float().cpu().numpy()
        several = self.model.multi_label
        return [
            ClassificationResult(image.array, row, self.class_names, several, name=image.name)
            for image, row in zip(images, scores, strict=True)
        ]
