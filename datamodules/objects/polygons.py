"""Polygons as masks: one rule for all formats. The way back is `eomt.results.polygons`.

A polygon lives in the plane of the image, in which the pixel of row i and column j is the square from (j, i) to
(j + 1, i + 1). It is filled as pycocotools fills it, by the parity of crossings, so that holes that a polygon reaches
over a seam, there and back, stay holes.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from eomt.errors import UserError

# of a polygon
FEWEST_POINTS = 3
# how far a point may lie beyond the edges, in parts of the image's longer side; tools draw and round a little outside
MOST_OUTSIDE = 0.05


def polygon_mask(polygons: Sequence[np.ndarray], size: tuple[int, int], place: str) -> np.ndarray:
    """Return the mask of an object of one or several polygons, (H, W) bool, with at least one pixel.

    What lies beyond the edges is cut off. An object so thin that it holds the middle of no pixel has the pixels of its
    points.

    Args:
        polygons: (P, 2) x and y in pixels, for each part of the object.
        size: Height and width of the pixels that the polygons are drawn on.
        place: File and object, for messages.

    Raises:
        UserError: A polygon has fewer than three points, or one far outside of the image.
    """
    height, width = size
    for polygon in polygons:
        check_polygon(polygon, size, place)
    flat = [polygon.reshape(-1).tolist() for polygon in polygons]
    mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width))).astype(bool)
    if not mask.any():
        points = np.floor(np.concatenate(polygons)).astype(int)
        mask[points[:, 1].clip(0, height - 1), points[:, 0].clip(0, width - 1)] = True
    return mask


def check_polygon(polygon: np.ndarray, size: tuple[int, int], place: str) -> None:
    """Check that a polygon can be filled, see `polygon_mask`.

    Raises:
        UserError: It cannot.
    """
    height, width = size
    if len(polygon) < FEWEST_POINTS:
        raise UserError(
            f"{place}: a polygon of {len(polygon)} points; it needs {FEWEST_POINTS}, draw it again or remove it"
        )
    beyond = np.maximum(-polygon, polygon - (width, height)).max(1)
    if not beyond.max() <= MOST_OUTSIDE * max(size):
        x, y = polygon[beyond.argmax()]
        raise UserError(
            f"{place}: point ({x:g}, {y:g}) is outside of the image of {height} x {width} (height x width); "
            "is it the annotation of another image, or of one that was resized?"
        )
