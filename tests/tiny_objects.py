"""Images with rectangles that are objects, for tests of instance and panoptic segmentation."""

from typing import Any

import torch
from torch import Tensor

COLORS = torch.tensor([[40, 40, 40], [220, 60, 60], [60, 220, 60]])


def make_objects(seed: int, size: tuple[int, int] = (32, 48)) -> tuple[Tensor, Tensor, Tensor]:
    """An image uint8 `(3, H, W)` with a red and a green rectangle, their masks bool `(2, H, W)` and classes `(2,)`."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for index, mask in enumerate(masks):
        # in the left and in the right half
        top = int(torch.randint(0, height // 2, (), generator=generator))
        left = index * width // 2 + int(torch.randint(0, width // 8, (), generator=generator))
        mask[top : top + height // 2, left : left + width // 3] = True
    labels = torch.tensor([0, 1]) if seed % 2 else torch.tensor([1, 0])
    painted = torch.zeros(size, dtype=torch.int64)
    for mask, label in zip(masks, labels, strict=True):
        painted[mask] = label + 1
    noise = torch.randint(-20, 20, (*size, 3), generator=generator)
    return (COLORS[painted] + noise).clamp(0, 255).to(torch.uint8).permute(2, 0, 1).contiguous(), masks, labels


def make_batch(*seeds: int, size: tuple[int, int] = (32, 48), panoptic: bool = False) -> dict[str, Any]:
    """A batch of such images; `panoptic` adds what is around the rectangles, as stuff of class 2."""
    images, masks, labels = zip(*(make_objects(seed, size) for seed in seeds), strict=True)
    if panoptic:
        masks = tuple(torch.cat([of, ~of.any(0, keepdim=True)]) for of in masks)
        labels = tuple(torch.cat([of, torch.tensor([2])]) for of in labels)
    return {
        "image": torch.stack(images),
        "masks": list(masks),
        "labels": list(labels),
        "is_crowd": [torch.zeros(len(of), dtype=torch.bool) for of in labels],
        "name": [f"{seed}.png" for seed in seeds],
    }
