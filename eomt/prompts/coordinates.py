"""What a prompt is, and where it lies.

Coordinates are (x, y) indices of pixels, as SAM2 takes them: its prompt encoder adds the 0.5 that leads to the pixel's
center. Boxes are (x1, y1, x2, y2), the indices of the first and the last column and row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PADDING_LABEL = -10
"""The label of points that only fill up a tensor."""
NO_POINT_LABEL = -1
"""The label of a point that says "nothing is prompted"."""


class Prompts(NamedTuple):
    """Prompts of N objects of one image, or of a batch of images `(B, ...)`; what is not prompted is None.

    A point's label is 1 on the object, 0 off it, -1 if there is no point, -10 if it fills up the tensor.
    """

    points: Tensor | None  # (..., N, P, 2) float32
    labels: Tensor | None  # (..., N, P) int32
    boxes: Tensor | None  # (..., N, 4) float32

    def scaled(self, size: tuple[int, int], new_size: tuple[int, int]) -> "Prompts":
        """Move the prompts from an image of `size` (height, width) to the same image resized to `new_size`.

        Centers of pixels stay where they are in the picture: x becomes (x + 0.5) * new / old - 0.5.
        """
        factor = torch.tensor([new_size[1] / size[1], new_size[0] / size[0]])

        def scale(coordinates: Tensor) -> Tensor:
            return (coordinates + 0.5) * factor.to(coordinates.device).repeat(coordinates.shape[-1] // 2) - 0.5

        return Prompts(
            None if self.points is None else scale(self.points),
            self.labels,
            None if self.boxes is None else scale(self.boxes),
        )

    def with_click(self, point: Tensor, label: Tensor) -> "Prompts":
        """Add one click per object, at `(..., N, 2)` with label `(..., N)`."""
        points, labels = point.unsqueeze(-2), label.unsqueeze(-1)
        if self.points is not None and self.labels is not None:
            points, labels = torch.cat([self.points, points], dim=-2), torch.cat([self.labels, labels], dim=-1)
        return Prompts(points, labels, self.boxes)

    def padded_where(self, valid: Tensor) -> "Prompts":
        """Blank the prompts of objects that are not `valid`, bool `(..., N)`: zeros, and labels -10."""
        return Prompts(
            None if self.points is None else self.points * valid[..., None, None],
            None if self.labels is None else self.labels.masked_fill(~valid[..., None], PADDING_LABEL),
            None if self.boxes is None else self.boxes * valid[..., None],
        )


def tight_boxes(masks: Tensor) -> Tensor:
    """Return the smallest boxes, float32 `(..., 4)`, around masks, bool `(..., H, W)`; of an empty one the whole image.

    Nothing here waits for the device.
    """
    height, width = masks.shape[-2:]
    edges = []
    for occupied, length in ((masks.any(dim=-2), width), (masks.any(dim=-1), height)):
        # argmax needs numbers, and returns the first of equals: 0 where there is none
        first = occupied.byte().argmax(dim=-1)
        last = length - 1 - occupied.flip(-1).byte().argmax(dim=-1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=-1).float()


def nth_pixel(region: Tensor, position: Tensor) -> Tensor:
    """Return (x, y), int64 `(..., 2)`, of the pixel that comes at `position` among those of a region, row by row.

    Args:
        region: bool `(..., H, W)`, not empty.
        position: int64 `(...)`, 0 to the region's area - 1.
    """
    width = region.shape[-1]
    order = region.flatten(-2).cumsum(dim=-1, dtype=torch.int32)
    index = torch.searchsorted(order, (position + 1).to(torch.int32).unsqueeze(-1)).squeeze(-1)
    return torch.stack([index % width, index // width], dim=-1)
