"""Prompts for evaluation: the same for an object in every run, epoch, process and batch.

They are made from the true mask at its original size: an oracle that a user's clicks will not quite match.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from eomt.prompts.coordinates import NO_POINT_LABEL, PADDING_LABEL, Prompts, nth_pixel, tight_boxes

MODES = ("box", "centre", "points", "none")
"""The kinds of prompts, to be reported apart."""
NUM_POINTS = 3


def evaluation_prompts(masks: Tensor, name: str, class_ids: Sequence[int], mode: str, seed: int = 0) -> Prompts:
    """Make the prompts of the objects of one image.

    `box` is the tight box. `centre` is the pixel furthest from the mask's border, the first one row by row where
    several are; it lies on the object whatever its shape. `points` are 3 pixels of the object, each equally likely
    (and possibly twice the same), drawn with a hash of seed, name and class. `none` is no prompt at all.

    Args:
        masks: bool `(N, H, W)`, at the image's original size; none may be empty unless the mode is `none`.
        name: The image's name.
        class_ids: N of them; an object is one class in one image.
        mode: One of `MODES`.
        seed: Another seed gives other `points`.

    Returns:
        In pixels of the masks, on their device: `Prompts.scaled` takes them to the size the network sees.
    """
    assert mode in MODES, mode
    assert len(class_ids) == len(masks)
    assert mode == "none" or bool(masks.any(dim=(-2, -1)).all()), f"{name}: an empty mask has no {mode}"
    num_objects = len(masks)
    if mode == "box":
        return Prompts(None, None, tight_boxes(masks))
    if mode == "none":
        points = torch.zeros(num_objects, 1, 2, device=masks.device)
        return Prompts(points, torch.full_like(points[..., 0], NO_POINT_LABEL, dtype=torch.int32), None)
    if mode == "centre":
        points = torch.tensor([interior_point(mask.cpu().numpy()) for mask in masks]).view(num_objects, 1, 2)
    else:
        areas = masks.sum(dim=(-2, -1)).tolist()
        positions = [
            [number % area for number in hashed_numbers(seed, name, class_id)]
            for area, class_id in zip(areas, class_ids, strict=True)
        ]
        drawn = torch.tensor(positions, dtype=torch.int64, device=masks.device).view(num_objects, NUM_POINTS)
        points = torch.stack([nth_pixel(masks, position) for position in drawn.unbind(dim=1)], dim=1)
    points = points.to(masks.device, torch.float32)
    return Prompts(points, torch.ones_like(points[..., 0], dtype=torch.int32), None)


def stack_prompts(prompts: Sequence[Prompts]) -> Prompts:
    """Make one batch of images' prompts of one mode, with zeros and labels -10 where an image has fewer objects."""
    places = max(len(part) for image in prompts for part in image if part is not None)

    def stack(parts: Sequence[Tensor | None], filling: float) -> Tensor | None:
        present = [part for part in parts if part is not None]
        assert len(present) in (0, len(parts)), "prompts of several modes cannot be stacked"
        if not present:
            return None
        return torch.stack(
            [F.pad(part, (0, 0) * (part.dim() - 1) + (0, places - len(part)), value=filling) for part in present]
        )

    points, labels, boxes = zip(*prompts, strict=True)
    return Prompts(stack(points, 0), stack(labels, PADDING_LABEL), stack(boxes, 0))


def interior_point(mask: np.ndarray) -> tuple[int, int]:
    """Return (x, y) of the pixel furthest from everything outside the mask and the image.

    Args:
        mask: bool `(H, W)`, not empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    # the rest of the image is background, and so is a frame of one pixel around it
    framed = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    distance = distance_transform_edt(framed)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return left + int(x) - 1, top + int(y) - 1


def hashed_numbers(seed: int, name: str, class_id: int) -> list[int]:
    """Return `NUM_POINTS` numbers of 64 bits that depend on nothing but the object and the seed."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{class_id}".encode()).digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "big") for i in range(NUM_POINTS)]
