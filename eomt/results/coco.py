"""Masks as COCO writes them: run lengths, and a whole document.

Lin et al., "Microsoft COCO" (arXiv:1405.0312); the format is that of cocodataset.org, and pycocotools encodes it.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask


class Annotated(Protocol):
    """What a document of COCO takes of a result."""

    @property
    def name(self) -> str:
        """Name of the image's file."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""

    def annotations(self) -> list[dict[str, Any]]:
        """Return annotations without ids, with the name of their category."""

    def categories(self) -> list[str]:
        """Return the names of all categories."""


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool `(H, W)`, as compressed run lengths: `size` [H, W] and `counts`, a text."""
    found = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def mask_of(lengths: dict[str, Any]) -> np.ndarray:
    """Return the mask, bool `(H, W)`, of run lengths."""
    return coco_mask.decode(lengths).astype(bool)


def annotation(mask: np.ndarray, category: str, score: float | None = None) -> dict[str, Any]:
    """Return an annotation without ids, and with the name of its category.

    Args:
        mask: bool `(H, W)`.
        category: Name of its category.
        score: How sure the model is, 0 to 1; None leaves it out.
    """
    lengths = run_lengths(mask)
    found: dict[str, Any] = {
        "category": category,
        "segmentation": lengths,
        "area": int(coco_mask.area(lengths)),
        # COCO's boxes are left, top, width and height in pixels
        "bbox": [float(value) for value in coco_mask.toBbox(lengths)],
        "iscrowd": 0,
    }
    return found if score is None else found | {"score": score}


def coco_document(results: Iterable[Annotated]) -> dict[str, Any]:
    """Return results as one document of COCO: `images`, `annotations` and `categories`, with ids from 1.

    Args:
        results: Of images with different names.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # each once, in the order in which the results have them
    categories: dict[str, int] = {}
    for number, result in enumerate(results, start=1):
        height, width = result.size
        images.append({"id": number, "file_name": result.name, "height": height, "width": width})
        for name in result.categories():
            categories.setdefault(name, len(categories) + 1)
        for found in result.annotations():
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": categories[found.pop("category")]}
            annotations.append(ids | found)
    named = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}
