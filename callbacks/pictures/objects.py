"""Pictures of the objects or segments of an image: the truth, and what a task found."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from callbacks.pictures.grid import SMALLEST_CELL_WIDTH
from eomt.models.post_processing import Instances, Segments
from eomt.pictures.objects import TEXT_SHARE, colors_of, draw_objects, outline
from eomt.tasks.object_segmentation import crowds_of
from eomt.utils.images import shown_channels
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import PackedMasks, paint

CROWD = "crowd"


class ObjectPictures(NamedTuple):
    """Pictures of an image, uint8 `(3, h, w)`, wide enough for texts."""

    truth: Tensor
    prediction: Tensor


def shows_objects(batch: Any, outputs: Any) -> bool:
    """Return whether a batch has true objects, and a step returned what it found of them."""
    return isinstance(outputs, Mapping) and "found" in outputs and {"masks", "labels"} <= batch.keys()


def object_pictures(
    batch: dict[str, Any], found: Instances, index: int, num_classes: int, text_share: float = TEXT_SHARE
) -> ObjectPictures:
    """Return the pictures of one image of an evaluated batch; found objects have their scores.

    Args:
        batch: As `eomt.tasks.object_segmentation` takes it.
        found: Of this image.
        index: Its place in the batch.
        num_classes: C.
        text_share: Size of the texts in widths of the picture.
    """
    image, labels = shown_channels(batch["image"][index]).cpu(), batch["labels"][index].tolist()
    texts = [CROWD if is_crowd else "" for is_crowd in crowds_of(batch)[index].tolist()]
    truth = draw(image, batch["masks"][index], labels, num_classes, texts, text_share)
    scores = [f"{score:.2f}" for score in found.scores.tolist()]
    return ObjectPictures(truth, draw(image, found.masks, found.labels.tolist(), num_classes, scores, text_share))


def found_picture(image: Tensor, found: Instances | Segments, class_names: Sequence[str]) -> Tensor:
    """Return the objects or segments that were found over an image `(3, H, W)`, with class and score of each."""
    objects = found.above(0) if isinstance(found, Segments) else found
    labels = objects.labels.tolist()
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, objects.scores.tolist(), strict=True)]
    return draw_objects(image, objects.masks, colors_of(labels, len(class_names)), texts)


def draw(
    image: Tensor,
    masks: Tensor | PackedMasks,
    labels: Sequence[int],
    num_classes: int,
    texts: Sequence[str] | None = None,
    text_share: float = TEXT_SHARE,
) -> Tensor:
    """Return a picture of objects, in the colors of their classes, or their own where there is one class."""
    colors = colors_of(labels, num_classes)
    return draw_objects(image, masks, colors, texts, least_width=SMALLEST_CELL_WIDTH, text_share=text_share)


def apart(class_map: Tensor, masks: PackedMasks) -> Tensor:
    """Return a map `(H, W)` in which outlines of masks are 255, which no painter paints.

    So objects of one class that touch stay apart in a file of one number for each pixel.
    """
    class_map = class_map.clone()
    for part in masks.parts():
        paint(class_map.numpy(), outline(part, masks.size), IGNORE_INDEX)
    return class_map
