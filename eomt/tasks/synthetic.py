"""Batches of random values, for commands that run without data."""

from typing import Any

import torch


def rectangles(batch_size: int, objects: int, height: int, width: int) -> dict[str, Any]:
    """Return random images, each with a rectangle for each of its objects.

    Args:
        batch_size: Number of images.
        objects: Number of objects of each.
        height: Of the images.
        width: Of the images.
    """
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(objects, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = True
    return {
        "image": torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8, generator=generator),
        "masks": [mask.clone() for _ in range(batch_size)],
        "class_ids": [torch.zeros(objects, dtype=torch.int64) for _ in range(batch_size)],
        "name": [f"synthetic {index}" for index in range(batch_size)],
    }
