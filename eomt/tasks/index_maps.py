"""Maps of class ids made from masks of objects, for pictures and files."""

import numpy as np
import torch
from torch import Tensor

from eomt.utils.packed_masks import PackedMasks, paint

BACKGROUND = 0


def index_map(masks: Tensor | PackedMasks, class_ids: Tensor) -> Tensor:
    """Return one map of masks that may overlap; smaller masks lie on top, and of masks of one size the first.

    Args:
        masks: Masks, packed or bool `(N, H, W)`.
        class_ids: Class ids, int64 `(N,)`, counted from 0.

    Returns:
        int64 `(H, W)`: 0 where there is no mask, else class id + 1.
    """
    packed = PackedMasks.of(masks)
    found = np.full(packed.size, BACKGROUND, dtype=np.int64)
    parts, ids = list(packed.parts()), class_ids.tolist()
    for index in packed.areas.argsort(stable=True).flip(0).tolist():
        paint(found, parts[index], ids[index] + 1)
    return torch.from_numpy(found).to(packed.bits.device)


def index_maps(found: list[Tensor], truths: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the map of each image.

    Args:
        found: Masks of each image, bool `(N, H, W)`.
        truths: True masks and class ids of each image; the ids are used.
    """
    return [index_map(masks, class_ids) for masks, (_, class_ids) in zip(found, truths, strict=True)]
