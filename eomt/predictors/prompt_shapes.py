"""Prompts as people write them, brought to the shapes that networks take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eomt.errors import UserError, shortened
from eomt.prompts.coordinates import PADDING_LABEL, Prompts


def as_boxes(boxes: Any) -> Tensor | None:
    """Return boxes, float32 `(N, 4)`, from `(N, 4)` or `(4,)`; None for None.

    Raises:
        UserError: For another shape, a number that is not finite, or a box whose right or lower edge comes first.
    """
    if boxes is None:
        return None
    found = _numbers("boxes", boxes)
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != 4 or not len(found):
        raise UserError(f"boxes: shape {list(found.shape)}; give (N, 4): x0, y0, x1, y1 of each object")
    wrong = (found[:, 2:] < found[:, :2]).any(1)
    if wrong.any():
        raise UserError(f"boxes: {found[wrong][0].tolist()}: ends before it begins; give x0, y0, x1, y1 in pixels")
    return found


def as_clicks(points: Any, labels: Any) -> tuple[Tensor, Tensor] | None:
    """Return clicks, float32 `(N, P, 2)`, and their labels, int32 `(N, P)`; None for None.

    Args:
        points: `(N, P, 2)`; `(P, 2)` are the clicks of one object, `(2,)` is one click. Objects may have lists of
            different lengths, which are filled up with labels of -10.
        labels: 1 on the object, 0 off it, in the shape of `points` without its last dimension; None is 1 for all.

    Raises:
        UserError: For another shape, a number that is not finite, another label, or labels without points.
    """
    if points is None:
        if labels is not None:
            raise UserError("point_labels: there are no points; give points, or leave the labels out")
        return None
    clicks = [_numbers("points", of_object) for of_object in _of_objects(points, depth=3)]
    if not clicks or any(found.ndim != 2 or found.shape[1] != 2 or not len(found) for found in clicks):
        raise UserError(
            f"points: {shortened(str(points), 60)}; give (N, P, 2): x and y of the clicks on each of N objects, or "
            "(P, 2) for one object"
        )
    signs = [found.new_ones(len(found)) for found in clicks]
    if labels is not None:
        signs = [_numbers("point_labels", of_object) for of_object in _of_objects(labels, depth=2)]
    if [found.shape for found in signs] != [found.shape[:1] for found in clicks]:
        raise UserError(f"point_labels: {shortened(str(labels), 60)}; give one for each point, in the same lists")
    if not all(((found == 0) | (found == 1)).all() for found in signs):
        raise UserError(f"point_labels: {shortened(str(labels), 60)}; must be 1 (on the object) or 0 (off it)")
    padded = pad_sequence(signs, batch_first=True, padding_value=PADDING_LABEL)
    return pad_sequence(clicks, batch_first=True), padded.to(torch.int32)


def count_of(**prompts: Any) -> int | None:
    """Return the number of objects that prompts are of; None without any prompt.

    Raises:
        UserError: If they are of different numbers.
    """
    counts = {}
    for name, value in prompts.items():
        if value is not None:
            counts[name] = 1 if name == "masks" and np.ndim(value) == 2 else len(value)
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} of {count}" for name, count in counts.items())
        raise UserError(f"prompts: {said} objects; give each object all of them, or ask twice")
    return next(iter(counts.values()), None)


def require_inside(prompts: Prompts, size: tuple[int, int]) -> None:
    """Check that boxes and clicks lie inside of an image, as prompts in files must.

    Args:
        prompts: In pixels of the image.
        size: Height and width.

    Raises:
        UserError: If one does not.
    """
    corners = [] if prompts.boxes is None else [("boxes", box) for box in prompts.boxes.view(-1, 2, 2)]
    if prompts.points is not None and prompts.labels is not None:
        corners += [("points", point) for point in prompts.points[prompts.labels >= 0]]
    height, width = size
    for name, found in corners:
        x, y = found[..., 0], found[..., 1]
        if min(x.min(), y.min()) < -0.5 or x.max() > width - 0.5 or y.max() > height - 0.5:
            raise UserError(
                f"{name}: {[round(value, 1) for value in found.flatten().tolist()]} is not inside of the image, of "
                f"{width} x {height} pixels (width x height); clip it"
            )


def _of_objects(values: Any, depth: int) -> list[Any]:
    """Return the values of each object, of values that are nested up to `depth` times; less is of one object."""
    levels, first = 0, values
    while isinstance(first, Sequence | np.ndarray | Tensor) and not isinstance(first, str) and not _is_number(first):
        if not len(first):
            return []
        levels, first = levels + 1, first[0]
    for _ in range(depth - levels):
        values = [values]
    return list(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor) and value.ndim == 0


def _numbers(name: str, values: Any) -> Tensor:
    try:
        found = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {shortened(str(values), 60)}: no table of numbers") from error
    if not found.isfinite().all():
        raise UserError(f"{name}: {shortened(str(values), 60)}: a number is not finite")
    return found
