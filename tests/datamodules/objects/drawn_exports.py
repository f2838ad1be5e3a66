"""What the folders of `exports` show, see its README."""

from pathlib import Path

import numpy as np

EXPORTS = Path(__file__).parent / "exports"
HEIGHT, WIDTH = SIZE = (24, 32)
NAMES = ["ring", "box"]
RING, BOX = 0, 1


def drawn_objects(number: int) -> list[tuple[np.ndarray, int]]:
    """Return the masks of an image's objects, (24, 32) bool, and their places in `NAMES`."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = (rows - 10) ** 2 + (columns - 9 - number) ** 2
    box, parts = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
    box[4:14, 20:29] = True
    parts[17:22, 2:8] = parts[18:23, 20:30] = True
    return [((distance < 49) & (distance >= 9), RING), (box, BOX), (parts, BOX)][: 3 - number]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over the union of two masks."""
    return float((first & second).sum() / (first | second).sum())
