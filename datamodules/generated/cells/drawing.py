"""Cells that touch and overlap: where they lie, and which form they have."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from datamodules.generated.raster import pixel_grid

SIZE = (128, 128)
ROUND, SPINDLE, BUDDING = range(3)
CLASS_NAMES = ["round", "spindle", "budding"]
# how often a cell is of which class
CLASS_SHARES = (0.45, 0.3, 0.25)
# fewest and most cells of an image
NUMBER = (2, 5)
# how often a cell lies at another one, and how far from it, in sums of their radii
CLUSTERED, TOUCHING = 0.6, (0.8, 1.0)
# most that two cells share, of the smaller one
MOST_SHARED = 0.25
# least part of a cell that must be in the picture, and least number of pixels
LEAST_VISIBLE, LEAST_AREA = 0.7, 250
# tries to find a cell a place
ATTEMPTS = 8


@dataclass(frozen=True)
class Cell:
    """A cell.

    Args:
        class_id: Its class.
        mask: All that it covers, also what lies below another cell, (H, W) bool.
        depth: How thick it is at each pixel, (H, W) float32: 0 beside it, 1 in the middle.
        nucleus: Where its nucleus is, (H, W) bool.
        center: Row and column.
        radius: Half of its mean width, in pixels.
    """

    class_id: int
    mask: np.ndarray
    depth: np.ndarray
    nucleus: np.ndarray
    center: tuple[float, float]
    radius: float


def draw_cells(random: Generator) -> list[Cell]:
    """Return the cells of an image; there may be fewer than were tried, where no room is found."""
    cells: list[Cell] = []
    for _ in range(random.integers(*NUMBER, endpoint=True)):
        for _ in range(ATTEMPTS):
            cell = _cell(random, cells)
            if cell is not None and all(_lie_together(cell, other) for other in cells):
                cells.append(cell)
                break
    return cells


def _lie_together(cell: Cell, other: Cell) -> bool:
    """Return whether two cells share little enough."""
    shared = int((cell.mask & other.mask).sum())
    return shared <= MOST_SHARED * min(int(cell.mask.sum()), int(other.mask.sum()))


def _cell(random: Generator, others: list[Cell]) -> Cell | None:
    """Return a cell at a random place; None where too little of it is in the picture."""
    class_id = int(random.choice(len(CLASS_NAMES), p=CLASS_SHARES))
    radius = random.uniform(15, 22) if class_id == ROUND else random.uniform(13, 18)
    if others and random.random() < CLUSTERED:
        other = others[random.integers(len(others))]
        distance, angle = random.uniform(*TOUCHING) * (radius + other.radius), random.uniform(0, 2 * np.pi)
        center = other.center[0] + distance * np.sin(angle), other.center[1] + distance * np.cos(angle)
    else:
        center = random.uniform(0, SIZE[0]), random.uniform(0, SIZE[1])
    mask, depth = PAINTERS[class_id](random, center, radius)
    if mask.sum() < max(LEAST_AREA, LEAST_VISIBLE * np.pi * radius**2):
        return None
    shift = random.uniform(-0.2, 0.2, 2) * radius
    width = radius * random.uniform(0.35, 0.5)
    nucleus = _dome((center[0] + shift[0], center[1] + shift[1]), (width, width), 0.0) > 0
    return Cell(class_id, mask, depth, nucleus & mask, center, radius)


def paint_round(random: Generator, center: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask and the depth of a disc, a little squeezed."""
    depth = _dome(center, (radius * random.uniform(0.88, 1.0), radius), random.uniform(0, np.pi))
    return depth > 0, depth


def paint_spindle(random: Generator, center: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask and the depth of a long cell that ends in points."""
    long, short, angle = radius * random.uniform(1.7, 2.1), radius * random.uniform(0.55, 0.7), random.uniform(0, np.pi)
    along, across = _turned(center, angle)
    # a lens: the width falls to nothing at both ends
    outline = 1 - (along / long) ** 2
    mask = (outline > 0) & (np.abs(across) < short * outline)
    return mask, _dome(center, (short, long), angle) * mask


def paint_budding(random: Generator, center: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask and the depth of a cell with a bud, two discs that are one object."""
    angle, bud = random.uniform(0, 2 * np.pi), radius * random.uniform(0.55, 0.75)
    distance = radius + bud * random.uniform(0.55, 0.75)
    place = center[0] + distance * np.sin(angle), center[1] + distance * np.cos(angle)
    depth = np.maximum(_dome(center, (radius, radius), 0.0), _dome(place, (bud, bud), 0.0) * 0.9)
    return depth > 0, depth


PAINTERS = {ROUND: paint_round, SPINDLE: paint_spindle, BUDDING: paint_budding}


def _turned(center: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's distance from a center along a direction and across it, (H, W) both."""
    rows, columns = pixel_grid(SIZE)
    down, right = rows - center[0], columns - center[1]
    return right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)


def _dome(center: tuple[float, float], radii: tuple[float, float], angle: float) -> np.ndarray:
    """Return the height of half an ellipsoid across and along a direction, (H, W) float32: 1 in the middle."""
    along, across = _turned(center, angle)
    inside = 1 - (across / radii[0]) ** 2 - (along / radii[1]) ** 2
    return np.sqrt(inside.clip(min=0)).astype(np.float32)
