"""Masks as polygons along the edges of their pixels, which data modules of this package, filled, give back."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

Corner = tuple[int, int]


def mask_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Return polygons along the edges of a mask's pixels, one for each 4-connected part.

    Filled by the parity of crossings, as `datamodules.objects.polygons` does it, they give just the mask back. A hole
    is reached over a seam, there and back, for formats of polygons know no holes.

    Args:
        mask: (H, W) bool.

    Returns:
        (P, 2) int64, x and y of corners of pixels, in the order of the parts' first pixels.
    """
    numbers, _ = ndimage.label(mask)
    return [
        _joined(_outlines(numbers[rows, columns] == number)) + (columns.start, rows.start)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1)
    ]


def one_polygon(mask: np.ndarray) -> np.ndarray:
    """Return one polygon of a mask, (P, 2), for formats in which an object has one: seams join parts, too."""
    return _joined(mask_polygons(mask))


def _outlines(part: np.ndarray) -> list[np.ndarray]:
    """Return the closed lines around a 4-connected mask, the outer one first, (P, 2) x and y, corners alone.

    Every edge between a pixel of the mask and one outside is walked with the mask on its right hand.
    """
    padded = np.pad(part, 1)
    here, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    edges: dict[Corner, list[Corner]] = {}
    for found, (x0, y0), (x1, y1) in (
        (here & ~above, (0, 0), (1, 0)),  # upper edges, to the right
        (~here & above, (1, 0), (0, 0)),  # lower edges, to the left
        (here & ~left, (0, 1), (0, 0)),  # left edges, upwards
        (~here & left, (0, 0), (0, 1)),  # right edges, downwards
    ):
        for y, x in np.argwhere(found).tolist():
            edges.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    # the first corner that is left, row by row, has nothing above and beside it: a line that begins there ends there
    order = sorted(edges, key=lambda corner: corner[::-1])
    return [np.array(_walked(corner, edges), dtype=np.int64) for corner in order if corner in edges]


def _walked(origin: Corner, edges: dict[Corner, list[Corner]]) -> list[Corner]:
    """Return the corners of the line from one back to it, and take its edges away.

    Where two pixels of the mask touch at a corner alone, the line turns right and stays at the same pixel.
    """
    corners: list[Corner] = []
    (x, y), direction = origin, (0, 0)
    while not corners or (x, y) != origin:
        ends = edges[x, y]
        right = (x - direction[1], y + direction[0])
        following = right if right in ends else ends[0]
        ends.remove(following)
        if not ends:
            del edges[x, y]
        turned = (following[0] - x, following[1] - y)
        if turned != direction:
            corners.append((x, y))
        (x, y), direction = following, turned
    return corners


def _joined(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Return one closed line through several: from the first, over the shortest ways, around each other and back."""
    first, *others = lines
    tree = KDTree(first)
    reached: dict[int, list[np.ndarray]] = {}
    for line in others:
        distances, corners = tree.query(line)
        nearest = int(distances.argmin())
        corner = int(corners[nearest])
        there_and_back = [np.roll(line, -nearest, axis=0), line[[nearest]], first[[corner]]]
        reached.setdefault(corner, []).extend(there_and_back)
    pieces, begin = list[np.ndarray](), 0
    for corner in sorted(reached):
        pieces += [first[begin : corner + 1], *reached[corner]]
        begin = corner + 1
    return np.concatenate([*pieces, first[begin:]])
