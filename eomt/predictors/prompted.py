"""Masks of prompted objects, with SAM 2: the image is encoded once, and asked as often as one likes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from eomt.errors import UserError
from eomt.models.parts.sam2_outputs import SAM2Features
from eomt.predictors.inputs import NamedImage, Source
from eomt.predictors.predictor import Predictor
from eomt.predictors.prompt_shapes import as_boxes, as_clicks, count_of, require_inside
from eomt.prompts import Prompts
from eomt.results import MasksResult
from eomt.results.prompted import masks_result
from eomt.tasks.prompted_answers import FoundObjects, PromptedDecoder, answer_classes, answer_prompts, no_answer

# logits of the pixels inside and outside of a mask that is given as one
CERTAIN = 10.0


class PromptedModel(PromptedDecoder, Protocol):
    """A SAM 2; in PyTorch, or exported graphs. See `eomt.models.SAM2` for the shapes."""

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of its masks."""

    @property
    def prompt_free(self) -> bool:
        """Whether it finds classes without prompts."""


@dataclass(frozen=True)
class EncodedImage:
    """An image that is encoded already; `predict` takes it in place of an image.

    Attributes:
        image: The image.
        features: What the encoder made of it.
    """

    image: NamedImage
    features: SAM2Features


Asked = list[Source | EncodedImage] | tuple[Source | EncodedImage, ...]


class PromptedPredictor(Predictor[MasksResult]):
    """Segmentation of prompted objects or, of a prompt-free network, of its classes.

    Args:
        model: A SAM 2.
        class_names: Names of the classes.
        device: Where the model computes.
    """

    def __init__(self, model: PromptedModel, class_names: Sequence[str], device: torch.device) -> None:
        self.model, self.class_names, self.device = model, list(class_names), device

    @torch.inference_mode()
    def encode(self, image: Source) -> EncodedImage:
        """Return an image with what the encoder makes of it, for several calls of `predict`.

        Raises:
            UserError: For an image that cannot be read.
        """
        found = self.read(image)
        resized = TF.resize(found.pixels, list(self.model.img_size), antialias=True)
        return EncodedImage(found, self.model.encode(resized[None].to(self.device)))

    @overload
    def predict(
        self,
        images: Source | EncodedImage,
        boxes: Any = None,
        points: Any = None,
        point_labels: Any = None,
        masks: Any = None,
        labels: Sequence[str] | None = None,
        multimask: bool = False,
    ) -> MasksResult: ...

    @overload
    def predict(
        self,
        images: Asked,
        boxes: Any = None,
        points: Any = None,
        point_labels: Any = None,
        masks: Any = None,
        labels: Sequence[Any] | None = None,
        multimask: bool = False,
    ) -> list[MasksResult]: ...

    def predict(
        self,
        images: Source | EncodedImage | Asked,
        boxes: Any = None,
        points: Any = None,
        point_labels: Any = None,
        masks: Any = None,
        labels: Sequence[Any] | None = None,
        multimask: bool = False,
    ) -> MasksResult | list[MasksResult]:
        """Return the masks of N objects of an image, each prompted by points, a box and a mask together.

        Coordinates are in pixels of the upright image, x to the right and y down; a whole number is the center of a
        pixel. Without any prompt a prompt-free network looks for its classes.

        Args:
            images: See `eomt.predictors.inputs.read`, or what `encode` returned. With a list of images, each other
                argument is a list with one entry for each image.
            boxes: Boxes, `(N, 4)` or `(4,)`: x0, y0, x1, y1 of the outermost pixels.
            points: Clicks, `(N, P, 2)`; `(P, 2)` is one object, `(2,)` one click. Objects may have different numbers
                of clicks, in a list of lists.
            point_labels: 1 on the object, 0 off it, in the shape of `points` without its last dimension; None is 1
                for all.
            masks: Masks to start from: `logits` of an earlier result, `(N, h, w)`, or bool `(N, H, W)` of the image.
            labels: What the N objects are, names of classes; None calls them by the only class, or "object".
            multimask: Let the network answer with three masks, and take the one that it finds best; for single clicks
                that may mean a part or the whole.

        Raises:
            UserError: For an image that cannot be read, prompts that do not fit together, or none.
        """
        if isinstance(images, list | tuple):
            given = (boxes, points, point_labels, masks, labels)
            for name, value in zip(("boxes", "points", "point_labels", "masks", "labels"), given, strict=True):
                if value is not None and len(value) != len(images):
                    raise UserError(f"{name}: {len(value)} entries for {len(images)} images; give one for each image")
            of_each: Any = zip(*([None] * len(images) if value is None else value for value in given), strict=True)
            return [self._of_image(image, multimask, *asked) for image, asked in zip(images, of_each, strict=True)]
        return self._of_image(images, multimask, boxes, points, point_labels, masks, labels)

    def _of_image(
        self,
        image: Source | EncodedImage,
        multimask: bool,
        boxes: Any,
        points: Any,
        point_labels: Any,
        masks: Any,
        labels: Sequence[str] | None,
    ) -> MasksResult:
        if boxes is not None and points is None and masks is None and not len(boxes):
            # a detector found nothing: there are no objects, and nothing was forgotten
            encoded = image if isinstance(image, EncodedImage) else self.encode(image)
            return self._result(encoded, no_answer(encoded.image.size, self.device), None)
        given_boxes = as_boxes(boxes)
        clicks, signs = as_clicks(points, point_labels) or (None, None)
        count = count_of(boxes=given_boxes, points=clicks, masks=masks)
        if count is None:
            if not self.model.prompt_free:
                raise UserError(
                    "predict: no prompt; give boxes=, points= or masks= (only a network that was trained with "
                    "prompt_free: true finds objects by itself)"
                )
            return self._classes(image if isinstance(image, EncodedImage) else self.encode(image))
        names = self._names(labels, count)
        encoded = image if isinstance(image, EncodedImage) else self.encode(image)
        prompts = Prompts(clicks, signs, given_boxes)
        require_inside(prompts, encoded.image.size)
        return self._prompted(encoded, prompts, self._mask_logits(masks, encoded.image.size), names, multimask)

    @torch.inference_mode()
    def _prompted(
        self, encoded: EncodedImage, prompts: Prompts, masks: Tensor | None, names: list[str], multimask: bool
    ) -> MasksResult:
        size = encoded.image.size
        found = answer_prompts(self.model, encoded.features, prompts, size, None, names, masks, multimask)
        return self._result(encoded, found, prompts)

    @torch.inference_mode()
    def _classes(self, encoded: EncodedImage) -> MasksResult:
        found = answer_classes(self.model, encoded.features, encoded.image.size, self.class_names)
        return self._result(encoded, found, None)

    def _result(self, encoded: EncodedImage, found: FoundObjects, prompts: Prompts | None) -> MasksResult:
        return masks_result(found, encoded.image.array, self.class_names, prompts, encoded.image.name)

    def _names(self, labels: Sequence[str] | None, count: int) -> list[str]:
        if labels is None:
            return [self.class_names[0] if len(self.class_names) == 1 else "object"] * count
        if isinstance(labels, str):
            labels = [labels] * count
        if len(labels) != count:
            raise UserError(f"labels: {len(labels)} for {count} objects; give one for each object")
        return list(labels)

    def _mask_logits(self, masks: Any, size: tuple[int, int]) -> Tensor | None:
        """Return logits of masks that are given, `(N, 1, h, w)` of the network's mask size."""
        if masks is None:
            return None
        given = torch.as_tensor(np.asarray(masks))
        given = given[None] if given.ndim == 2 else given
        shape = tuple(given.shape[1:])
        if given.ndim == 3 and given.is_floating_point() and shape == tuple(self.model.mask_size):
            return given.float()[:, None]
        if given.ndim == 3 and given.dtype == torch.bool and shape == size:
            resized = F.interpolate(given[:, None].float(), self.model.mask_size, mode="bilinear", antialias=True)
            return (2 * resized - 1) * CERTAIN
        height, width = self.model.mask_size
        raise UserError(
            f"masks: {given.dtype} of shape {list(given.shape)}; give `logits` of a result, (N, {height}, {width}), or "
            f"bool (N, {size[0]}, {size[1]})"
        )
