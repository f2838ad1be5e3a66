"""Bilinear interpolation of index maps and logits at a set of points, without dense masks.

Points are (x, y) in [0, 1] x [0, 1], from the upper left corner of the upper left pixel to the lower right corner of
the lower right one. Values are those of `grid_sample` with zero padding and `align_corners=False`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbors(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the four pixels around each point.

    Args:
        points: `(..., P, 2)`.
        height: Height of the map in pixels.
        width: Width of the map in pixels.

    Returns:
        Indices into the flattened map, int64 `(..., P, 4)`, and their bilinear weights `(..., P, 4)`; a neighbor
        outside the map has weight 0 (and some index that exists).
    """
    # the detour over [-1, 1] rounds as grid_sample does, so that both see a point at the same place
    size = points.new_tensor([width, height])
    position = ((2 * points - 1 + 1) * size - 1) / 2
    corner = position.floor()
    fraction = position - corner
    columns, rows = torch.stack([corner, corner + 1], dim=-1).long().unbind(dim=-2)  # (..., P, 2) each
    column_weights, row_weights = torch.stack([1 - fraction, fraction], dim=-1).unbind(dim=-2)
    column_weights = column_weights * ((columns >= 0) & (columns < width))
    row_weights = row_weights * ((rows >= 0) & (rows < height))
    index = rows.clamp(0, height - 1).unsqueeze(-1) * width + columns.clamp(0, width - 1).unsqueeze(-2)
    weight = row_weights.unsqueeze(-1) * column_weights.unsqueeze(-2)
    return index.flatten(-2), weight.flatten(-2)


def class_indicator(labels: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Interpolate the binary masks of some classes.

    Args:
        labels: Labels of the points' neighbors, `(P, 4)`.
        weight: Bilinear weights of the neighbors, `(P, 4)`.
        classes: `(C,)`.

    Returns:
        Share of each class at each point, `(C, P)`.
    """
    # one neighbor at a time: no (C, P, 4) tensor
    pairs = zip(labels.unbind(dim=-1), weight.unbind(dim=-1), strict=True)
    first, *others = ((label == classes[:, None]) * share for label, share in pairs)
    return sum(others, start=first)


def sample_shared(logits: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Interpolate many maps at the same points, given the `neighbors` of these.

    A point's neighbors are rows of the transposed maps, which makes this a weighted bag of rows: on a CPU five times
    as fast as `grid_sample`. It has no gradient.

    Args:
        logits: `(N, h, w)`.
        index: `(P, 4)`.
        weight: `(P, 4)`.

    Returns:
        `(P, N)`
    """
    rows = logits.detach().flatten(1).t().contiguous()
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")


def sample_each(logits: Tensor, points: Tensor) -> Tensor:
    """Interpolate every map at its own points, with gradients.

    Args:
        logits: `(N, h, w)`.
        points: `(N, P, 2)`.

    Returns:
        `(N, P)`
    """
    return F.grid_sample(logits.unsqueeze(1), 2 * points.unsqueeze(2) - 1, align_corners=False).flatten(1)
