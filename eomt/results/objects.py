"""Objects and segments of an image, found without prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from eomt.models.post_processing import Instances, Segments
from eomt.pictures.colors import palette
from eomt.pictures.objects import colors_of, draw_objects
from eomt.prompts.coordinates import tight_boxes
from eomt.results.coco import annotation
from eomt.results.result import Result
from eomt.tasks.index_maps import index_map
from eomt.utils.packed_masks import PackedMasks, paint


@dataclass(repr=False)
class InstanceResult(Result):
    """N objects, which may overlap, the surest first.

    Args:
        packed: The masks, in little memory.
        labels: Class ids, int64 `(N,)`.
        scores: How sure class and mask are, float32 `(N,)`, 0 to 1.
        class_names: Names of the classes in the order of their ids.
    """

    packed: PackedMasks
    labels: np.ndarray
    scores: np.ndarray
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.packed)

    @cached_property
    def masks(self) -> np.ndarray:
        """The masks, bool `(N, H, W)`, unpacked when they are asked for."""
        return self.packed.dense().numpy()

    @property
    def boxes(self) -> np.ndarray:
        """The smallest box around each mask, float32 `(N, 4)`, x0, y0, x1, y1: its first and last column and row."""
        boxes = np.zeros((len(self), 4), np.float32)
        for box, (top, left, pixels) in zip(boxes, self.packed.parts(), strict=True):
            box[:] = tight_boxes(torch.from_numpy(pixels)).numpy() + (left, top, left, top)
        return boxes

    @property
    def label_names(self) -> list[str]:
        """The class of each object."""
        return [self.class_names[label] for label in self.labels]

    def draw(self, alpha: float = 0.35, texts: bool = True) -> Image.Image:
        """Return the objects over the image with their outlines; smaller ones lie on top.

        Objects of several classes have the colors of their classes, those of one class have colors of their own.

        Args:
            alpha: 0 shows the image inside of outlines, 1 the colors alone.
            texts: Write class and score of each object.
        """
        image = torch.from_numpy(np.array(self.image)).permute(2, 0, 1)
        colors = colors_of(self.labels.tolist(), len(self.class_names))
        said = [f"{name} {score:.2f}" for name, score in zip(self.label_names, self.scores, strict=True)]
        return to_pil_image(draw_objects(image, self.packed, colors, said if texts else None, alpha))

    def png(self) -> Image.Image:
        """Return a picture of 16 bits whose values are the numbers of the objects, from 1; 0 is background."""
        found = index_map(self.packed, torch.arange(len(self)))
        return Image.fromarray(found.numpy().astype(np.uint16))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each object: file, number, class, score, pixels and box."""
        boxes, areas = self.boxes, self.packed.areas.tolist()
        return [
            {
                "file": self.name,
                "object": index + 1,
                "class": self.label_names[index],
                "score": float(self.scores[index]),
                "pixels": areas[index],
                **dict(zip(("x0", "y0", "x1", "y1"), map(float, boxes[index]), strict=True)),
            }
            for index in range(len(self))
        ]

    def annotations(self) -> list[dict[str, Any]]:
        """Return one annotation of COCO for each object."""
        found = []
        for part, name, score in zip(self.packed.parts(), self.label_names, self.scores, strict=True):
            mask = np.zeros(self.packed.size, dtype=bool)
            paint(mask, part, True)
            found.append(annotation(mask, name, float(score)))
        return found

    def categories(self) -> list[str]:
        """Return the names of all classes."""
        return list(self.class_names)

    def _said(self) -> str:
        return f"{self.name!r}, {len(self)} objects"


@dataclass(frozen=True)
class Segment:
    """A segment.

    Attributes:
        id: Its value in the map.
        class_id: Its class.
        class_name: The name of that.
        score: How sure the class is, 0 to 1.
        is_thing: Whether it is one object, and not stuff such as sky.
    """

    id: int
    class_id: int
    class_name: str
    score: float
    is_thing: bool


@dataclass(repr=False)
class PanopticResult(Result):
    """Segments, which do not overlap: one for each thing, and one for each kind of stuff.

    Args:
        segment_map: The segment of each pixel, int32 `(H, W)`, from 1; 0 where there is none.
        segments: In the order of their ids.
        class_names: Names of the classes in the order of their ids.
    """

    segment_map: np.ndarray
    segments: Sequence[Segment]
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def class_map(self) -> np.ndarray:
        """The class of each pixel, int64 `(H, W)`; -1 where there is no segment."""
        return np.array([-1, *(segment.class_id for segment in self.segments)])[self.segment_map]

    def draw(self, alpha: float = 0.5, texts: bool = True) -> Image.Image:
        """Return the segments over the image: stuff in the color of its class, things in colors of their own.

        Args:
            alpha: 0 shows the image inside of outlines, 1 the colors alone.
            texts: Write class and score of each segment.
        """
        count = len(self.class_names)
        # behind those of the classes
        things = iter(range(count, count + len(self)))
        numbers = [next(things) if segment.is_thing else segment.class_id for segment in self.segments]
        colors = palette(min(255, count + len(self))) if self.segments else []
        shown = [colors[number % len(colors)] for number in numbers]
        image = torch.from_numpy(np.array(self.image)).permute(2, 0, 1)
        masks = torch.from_numpy(self.segment_map == np.arange(1, len(self) + 1)[:, None, None])
        said = [f"{segment.class_name} {segment.score:.2f}" for segment in self.segments]
        return to_pil_image(draw_objects(image, masks, shown, said if texts else None, alpha))

    def png(self) -> Image.Image:
        """Return COCO's panoptic picture: a segment's id is R + 256 G + 65536 B; 0 is no segment."""
        ids = self.segment_map.astype(np.uint32)
        return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each segment: file, id, class, score, whether it is a thing, and pixels."""
        pixels = np.bincount(self.segment_map.ravel(), minlength=len(self) + 1)
        return [
            {
                "file": self.name,
                "segment": segment.id,
                "class": segment.class_name,
                "score": segment.score,
                "thing": int(segment.is_thing),
                "pixels": int(pixels[segment.id]),
            }
            for segment in self.segments
        ]

    def annotations(self) -> list[dict[str, Any]]:
        """Return one annotation of COCO for each segment."""
        return [
            annotation(self.segment_map == segment.id, segment.class_name, segment.score) for segment in self.segments
        ]

    def categories(self) -> list[str]:
        """Return the names of all classes."""
        return list(self.class_names)

    def _said(self) -> str:
        return f"{self.name!r}, {len(self)} segments"


def instance_result(found: Instances, image: np.ndarray, class_names: Sequence[str], name: str) -> InstanceResult:
    """Return the objects of an image, uint8 RGB `(H, W, 3)`, as a result."""
    labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
    return InstanceResult(image, found.masks.to("cpu"), labels, scores, class_names, name=name)


def panoptic_result(
    found: Segments, image: np.ndarray, class_names: Sequence[str], stuff_classes: Sequence[int], name: str
) -> PanopticResult:
    """Return the segments of an image, uint8 RGB `(H, W, 3)`, as a result."""
    of_segments = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    segments = [
        Segment(number, label, class_names[label], score, label not in stuff_classes)
        for number, (label, score) in enumerate(of_segments, start=1)
    ]
    return PanopticResult(image, found.segment_map.cpu().numpy(), segments, class_names, name=name)
