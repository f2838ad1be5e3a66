"""What SAM 2 answers to the prompts of an image, or about its classes: masks at the size of the file."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.errors import UserError
from eomt.models.parts.sam2_outputs import SAM2Features, SAM2Prediction, worth_answering
from eomt.prompts import Prompts
from eomt.prompts.coordinates import PADDING_LABEL
from eomt.tasks.index_maps import index_map

log = logging.getLogger("eomt")

# how many times larger than the network's images a file is, in either direction, before it is said
MUCH_LARGER = 4


class PromptedDecoder(Protocol):
    """A SAM 2; in PyTorch, or exported graphs. See `eomt.models.SAM2` for the shapes."""

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of its images."""

    def encode(self, image: Tensor) -> SAM2Features:
        """Return features of images, uint8 `(B, 3, H, W)`."""

    def decode(
        self,
        features: SAM2Features,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> SAM2Prediction:
        """Return masks of N objects in each image."""

    def decode_classes(self, features: SAM2Features) -> SAM2Prediction:
        """Return a mask of each class in each image."""


class FoundObjects(NamedTuple):
    """The N objects that were found in one image.

    Attributes:
        masks: bool `(N, H, W)`.
        scores: Predicted IoU of each mask, `(N,)`.
        logits: Logits of the masks at a quarter of the network's size, `(N, h, w)`.
        class_ids: int64 `(N,)`; None where an object is of no class.
        labels: What they are.
    """

    masks: Tensor
    scores: Tensor
    logits: Tensor
    class_ids: Tensor | None
    labels: Sequence[str]

    def index_map(self) -> Tensor:
        """Return a map, int64 `(H, W)`: 0 where there is no mask, else the class id + 1.

        Where objects have no classes it is the number of the object, from 1.
        """
        ids = torch.arange(len(self.masks)) if self.class_ids is None else self.class_ids
        return index_map(self.masks, ids.to(self.masks.device))


def answer_prompts(
    network: PromptedDecoder,
    features: SAM2Features,
    prompts: Prompts,
    size: tuple[int, int],
    class_ids: Tensor | None,
    labels: Sequence[str],
    masks: Tensor | None = None,
    multimask: bool = False,
) -> FoundObjects:
    """Return the masks of the prompted objects of one image.

    Args:
        network: A SAM 2.
        features: Of the image, with the dimension of the batch.
        prompts: Of N objects, in pixels of the file.
        size: Height and width of the file.
        class_ids: int64 `(N,)`, or None.
        labels: What the objects are.
        masks: Logits to start from, `(N, 1, h, w)`.
        multimask: Take the best of three masks.
    """
    scaled = prompts.scaled(size, network.img_size)
    device = features.embedding.device
    order: list[Tensor] = []
    parts: list[tuple[Tensor, Tensor]] = []
    for chosen in _of_one_length(scaled, len(labels)):
        # with the dimension of the batch
        points, signs, boxes, given = (
            None if part is None else part[chosen][None].to(device) for part in (*scaled, masks)
        )
        if points is not None and signs is not None:
            length = int((signs[0, 0] != PADDING_LABEL).sum())
            points, signs = points[:, :, :length], signs[:, :, :length]
        prediction = network.decode(features, points, signs, boxes, given, multimask)
        best = prediction.iou_scores[0].argmax(1)
        places = torch.arange(len(best))
        order.append(chosen)
        parts.append((prediction.mask_logits[0][places, best], prediction.iou_scores[0][places, best]))
    back = torch.cat(order).argsort().to(device)
    logits, scores = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    found = F.interpolate(logits[:, None], size, mode="bilinear")[:, 0] > 0
    return FoundObjects(found, scores, logits, class_ids, labels)


def _of_one_length(prompts: Prompts, count: int) -> list[Tensor]:
    """Return the numbers of objects, `(K,)`, that are asked about together: those with equally many clicks.

    A click that only fills up a list is a token all the same, and would change the answer.
    """
    if prompts.labels is None:
        return [torch.arange(count)]
    lengths = (prompts.labels != PADDING_LABEL).sum(1)
    return [(lengths == length).nonzero()[:, 0].cpu() for length in lengths.unique()]


def answer_classes(
    network: PromptedDecoder, features: SAM2Features, size: tuple[int, int], class_names: Sequence[str]
) -> FoundObjects:
    """Return the masks of the classes that a prompt-free network finds in one image.

    Args:
        network: A SAM 2.
        features: Of the image, with the dimension of the batch.
        size: Height and width of the file.
        class_names: Names of the classes, by class id.
    """
    prediction = network.decode_classes(features)
    logits, scores = prediction.mask_logits[0, :, 0], prediction.iou_scores[0, :, 0]
    found = F.interpolate(logits[:, None], size, mode="bilinear")[:, 0] > 0
    answered = (worth_answering(prediction)[0] & found.flatten(1).any(1)).nonzero()[:, 0]
    labels = [class_names[index] for index in answered.tolist()]
    return FoundObjects(found[answered], scores[answered], logits[answered], answered, labels)


def no_answer(size: tuple[int, int], device: torch.device) -> FoundObjects:
    """Return what is found where nothing is asked."""
    nothing = torch.zeros(0, *size, device=device)
    return FoundObjects(nothing.bool(), nothing.new_zeros(0), nothing.new_zeros(0, 0, 0), None, [])


def answer_batch(network: PromptedDecoder, batch: Mapping[str, Any], class_names: Sequence[str]) -> list[FoundObjects]:
    """Return what is found in each image of a batch, see `PromptedSegmentation.predict_step`."""
    features = network.encode(batch["image"])

    def answer(index: int) -> FoundObjects:
        of_image, size = features.select([index]), batch["size"][index]
        if "prompts" not in batch:
            return answer_classes(network, of_image, size, class_names)
        asked, class_ids = batch["prompts"][index], batch["class_ids"][index]
        if asked is None:
            return no_answer(size, of_image.embedding.device)
        return answer_prompts(network, of_image, asked, size, class_ids, batch["labels"][index])

    return [answer(index) for index in range(len(batch["name"]))]


def refuse_without_prompts(data: object) -> None:
    """Check that data say what to look for.

    Raises:
        UserError: They hold no prompts; none are made from the truth.
    """
    # loads Lightning, which an exported SAM 2 does without
    from eomt.tasks.data import PromptData

    if not (isinstance(data, PromptData) and data.has_prompts()):
        raise UserError(
            "data.prompts: null, so nothing says which objects to outline; give a file: a CSV with columns file, x0, "
            "y0, x1, y1, label (boxes) or file, x, y (clicks), a list of such rows in JSON, or COCO JSON with boxes; "
            "only a network that was trained with --model.network.prompt_free true finds objects by itself"
        )


def say_if_squashed(batch: Mapping[str, Any], seen: tuple[int, int]) -> bool:
    """Return whether an image of a batch is much larger than the (height, width) that are seen of it, and say so."""
    for (height, width), name in zip(batch["size"], batch["name"], strict=True):
        if name and max(height / seen[0], width / seen[1]) > MUCH_LARGER:
            log.warning(
                "%s: has %d x %d pixels (height x width), of which the network sees %d x %d: small objects may be "
                "lost; cut such images into pieces, or raise --model.network.img_size",
                *(name, height, width, *seen),
            )
            return True
    return False
