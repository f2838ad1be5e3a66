"""Maps of class ids made from masks of objects, for pictures and files."""

import torch
from torch import Tensor

from eomt.utils.masks import areas_of

BACKGROUND = 0


def index_map(masks: Tensor, class_ids: Tensor) -> Tensor:
    """Return one map of masks that may overlap; smaller masks lie on top, and of masks of one size the first.

    Args:
        masks: Masks, bool `(N, H, W)`.
        class_ids: Class ids, int64 `(N,)`, counted from 0.

    Returns:
        int64 `(H, W)`: 0 where there is no mask, else class id + 1.
    """
    found = torch.full(masks.shape[-2:], BACKGROUND, dtype=torch.int64, device=masks.device)
    for index in areas_of(masks).argsort(stable=True).flip(0).tolist():
        found.masked_fill_(masks[index], class_ids[index] + 1)
    return found


def index_maps(found: list[Tensor], truths: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the map of each image.

    Args:
        found: Masks of each image, bool `(N, H, W)`.
        truths: True masks and class ids of each image; the ids are used.
    """
    return [index_map(masks, class_ids) for masks, (_, class_ids) in zip(found, truths, strict=True)]
