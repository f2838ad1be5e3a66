"""Masks of objects in an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from eomt.pictures.colors import palette
from eomt.pictures.masks import overlay
from eomt.pictures.prompts import draw_prompts
from eomt.prompts import Prompts
from eomt.results.coco import annotation
from eomt.results.result import Result
from eomt.tasks.index_maps import index_map

# colors of objects repeat after so many
MOST_COLORS = 24


@dataclass(repr=False)
class MasksResult(Result):
    """Masks of N objects, which may overlap.

    Args:
        masks: bool `(N, H, W)`.
        scores: How well each mask is expected to fit (predicted IoU), float32 `(N,)`.
        boxes: The smallest box around each mask, float32 `(N, 4)`, x0, y0, x1, y1: the indices of its first and last
            column and row; zeros for an empty mask.
        labels: What each object is.
        class_names: Names of all classes, and any other labels.
        logits: Logits of the masks at a quarter of the network's size, float32 `(N, h, w)`: `predict` takes them as
            `masks` to refine an answer.
        prompts: What was asked, in pixels of the image; None where nothing was.
    """

    masks: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    labels: Sequence[str]
    class_names: Sequence[str]
    logits: np.ndarray
    prompts: Prompts | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def draw(self, alpha: float = 0.6) -> Image.Image:
        """Return the masks over the image, with the prompts; smaller masks lie on top.

        Objects of different classes have the colors of their classes, those of one class have colors of their own.

        Args:
            alpha: 0 shows the image alone, 1 the colors alone.
        """
        of_class, names = len(set(self.labels)) > 1, list(self.class_names)
        numbers = [names.index(label) if of_class else index % MOST_COLORS for index, label in enumerate(self.labels)]
        painted = torch.from_numpy(self.image).permute(2, 0, 1)
        if numbers:
            painted = overlay(
                painted,
                index_map(torch.from_numpy(self.masks), torch.tensor(numbers)),
                [None, *palette(max(numbers) + 1)],
                alpha,
            )
        return to_pil_image(painted if self.prompts is None else draw_prompts(painted, self.prompts))

    def png(self) -> Image.Image:
        """Return a picture of 16 bits whose values are the numbers of the objects, from 1; 0 is background."""
        found = index_map(torch.from_numpy(self.masks), torch.arange(len(self))).numpy()
        return Image.fromarray(found.astype(np.uint16))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each object: file, number, label, score, pixels and box."""
        return [
            {
                "file": self.name,
                "object": index + 1,
                "label": self.labels[index],
                "score": float(self.scores[index]),
                "pixels": int(self.masks[index].sum()),
                **dict(zip(("x0", "y0", "x1", "y1"), map(float, self.boxes[index]), strict=True)),
            }
            for index in range(len(self))
        ]

    def annotations(self) -> list[dict[str, Any]]:
        """Return one annotation of COCO for each mask that is not empty."""
        found = zip(self.masks, self.labels, self.scores, strict=True)
        return [annotation(mask, label, float(score)) for mask, label, score in found if mask.any()]

    def categories(self) -> list[str]:
        """Return the names of all classes."""
        return list(self.class_names)

    def _said(self) -> str:
        return f"{self.name!r}, {len(self)} objects"
