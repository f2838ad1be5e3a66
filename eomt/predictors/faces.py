"""Whether faces are morphs, and what a masked autoencoder makes of them."""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datamodules.common.orientation import Box
from datamodules.faces.boxes import face_window
from eomt.errors import UserError
from eomt.models.parts.processable import can_be_processed
from eomt.predictors.inputs import NamedImage, Source, Sources, listed_sources
from eomt.predictors.predictor import Predictor
from eomt.results import MorphResult, ReconstructionResult

if TYPE_CHECKING:
    from eomt.models.mae import MaskedAutoencoder


class MorphScorer(Protocol):
    """A model that scores faces; in PyTorch, or an exported graph."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of its images."""

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of a morph, fp32 `(B,)`, for images, uint8 `(B, 3, H, W)`."""


class MorphPredictor(Predictor[MorphResult]):
    """Detection of face morphs.

    Args:
        model: Scores faces.
        threshold: The score from which an image counts as a morph; None if none was chosen.
        device: Where the model computes.
    """

    batch_size = 16

    def __init__(self, model: MorphScorer, threshold: float | None, device: torch.device) -> None:
        self.model, self.threshold, self.device = model, threshold, device
        self.class_names = ["bona fide", "morph"]

    @overload
    def predict(self, images: Source, boxes: Sequence[Box | None] | Box | None = None) -> MorphResult: ...

    @overload
    def predict(self, images: Sources, boxes: Sequence[Box | None] | None = None) -> list[MorphResult]: ...

    def predict(
        self, images: Source | Sources, boxes: Sequence[Box | None] | Box | None = None
    ) -> MorphResult | list[MorphResult]:
        """Return whether the face of an image, or of each image of a list, is a morph.

        Args:
            images: See `eomt.predictors.inputs.read`.
            boxes: The box of the face, left, top, right and bottom in pixels of the upright image, or one for each
                image of a list; None takes the middle of the image. Give boxes if the model was trained with them.

        Raises:
            UserError: For an image that cannot be read, or another number of boxes.
        """
        several = listed_sources(images)[1]
        of_each: list[Box | None] = [] if boxes is None else [*boxes] if several else [boxes]  # type: ignore[list-item]
        if of_each and len(of_each) != (count := len(listed_sources(images)[0])):
            raise UserError(f"boxes: {len(of_each)} for {count} images; give one for each, or None")
        waiting = iter(of_each)
        return self._answers(images, lambda batch: self._of_batch(batch, [next(waiting, None) for _ in batch]))

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], boxes: Sequence[Box | None]) -> list[MorphResult]:
        size = self.model.img_size
        faces = torch.stack([shown(image, box, size) for image, box in zip(images, boxes, strict=True)])
        scores = self.model.scores(faces.to(self.device)).cpu().tolist()
        processed = can_be_processed(faces).tolist()
        return [
            MorphResult(image.array, score, self.threshold, known, name=image.name)
            for image, score, known in zip(images, scores, processed, strict=True)
        ]


class ReconstructionPredictor(Predictor[ReconstructionResult]):
    """Reconstruction by a masked autoencoder of what is hidden of an image.

    Args:
        model: The autoencoder.
        device: Where it computes.
    """

    def __init__(self, model: "MaskedAutoencoder", device: torch.device) -> None:
        self.model, self.device = model, device

    @overload
    def predict(self, images: Source, seed: int | None = None) -> ReconstructionResult: ...

    @overload
    def predict(self, images: Sources, seed: int | None = None) -> list[ReconstructionResult]: ...

    def predict(
        self, images: Source | Sources, seed: int | None = None
    ) -> ReconstructionResult | list[ReconstructionResult]:
        """Return what the model makes of an image, or of each image of a list.

        Args:
            images: See `eomt.predictors.inputs.read`; they are resized to the network's size.
            seed: Of what is hidden; None takes one that follows from the image's name, as validation does.

        Raises:
            UserError: For an image that cannot be read.
        """
        return self._answers(images, partial(self._of_batch, seed=seed))

    @torch.inference_mode()
    def _of_batch(self, images: list[NamedImage], seed: int | None) -> list[ReconstructionResult]:
        faces = torch.stack([shown(image, None, self.model.img_size) for image in images]).to(self.device)
        seeds = [zlib.crc32(image.name.encode()) if seed is None else seed for image in images]
        found = self.model.reconstruct(faces, [torch.Generator().manual_seed(number) for number in seeds])
        of_images = zip(images, *map(_arrays, found), strict=True)
        return [
            ReconstructionResult(seen, masked, rebuilt, name=image.name) for image, seen, masked, rebuilt in of_images
        ]


def shown(image: NamedImage, box: Box | None, size: tuple[int, int]) -> Tensor:
    """Return the part of an image that a network for faces sees, uint8 `(3, *size)`, as the data modules cut it."""
    left, top, right, bottom = face_window(image.size, box, size)
    return F.resize(image.pixels[:, top:bottom, left:right], list(size), antialias=True)


def _arrays(pictures: Tensor) -> list[np.ndarray]:
    """Return pictures, uint8 `(B, 3, H, W)`, as arrays, `(H, W, 3)`."""
    return [picture.permute(1, 2, 0).contiguous().numpy() for picture in pictures.cpu()]
