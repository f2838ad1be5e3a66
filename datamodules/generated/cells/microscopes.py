"""The same cells under two microscopes: gray on a clean ground, or stained, between dirt, fibers and bubbles."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.special import expit

from datamodules.generated.cells.drawing import SIZE, Cell
from datamodules.generated.raster import distance_to_segment, lay_over, pixel_grid, smooth_noise


def plain(cells: Sequence[Cell], random: Generator) -> np.ndarray:
    """Return gray cells on a clean bright ground, (H, W, 3) uint8: where two overlap, both take light away."""
    light = random.uniform(190, 235) * (1 + 0.03 * smooth_noise(random, SIZE, (25, 25)))
    for cell in cells:
        strength = random.uniform(0.7, 1.1)
        light = light * (1 - strength * (0.15 * cell.mask + 0.2 * cell.depth + 0.3 * _rim(cell)))
        light = light * (1 - 0.45 * strength * cell.nucleus)
    light = ndimage.gaussian_filter(light, 0.7) + random.uniform(1, 4) * random.standard_normal(SIZE)
    return _photograph(np.repeat(light[..., None], 3, axis=2))


def stain(cells: Sequence[Cell], random: Generator) -> np.ndarray:
    """Return stained cells in bright light, (H, W, 3) uint8: where two overlap, both take light away."""
    ground = np.array([238, 222, 232]) * random.uniform(0.9, 1.05)
    picture = np.repeat(ground[None, None], SIZE[0], 0).repeat(SIZE[1], 1).astype(np.float32)
    picture *= 1 + 0.05 * smooth_noise(random, SIZE, (25, 25))[..., None]
    # fibers between the cells
    picture *= 1 - 0.035 * np.abs(smooth_noise(random, SIZE, (1.0, 9.0)))[..., None] * np.array([0.5, 1.0, 0.6])
    for _ in range(random.integers(0, 3)):
        ends = [(random.uniform(0, SIZE[0]), random.uniform(0, SIZE[1])) for _ in range(2)]
        fiber = np.exp(-((distance_to_segment(SIZE, ends[0], ends[1]) / random.uniform(0.8, 1.6)) ** 2))
        lay_over(picture, np.array([150, 110, 140]), 0.6 * fiber)
    for cell in cells:
        strength = random.uniform(0.7, 1.1)
        cytoplasm = strength * (0.18 * cell.mask + 0.2 * cell.depth + 0.22 * _rim(cell))
        picture *= 1 - cytoplasm[..., None] * np.array([0.45, 0.95, 0.35])
        picture *= 1 - 0.5 * strength * cell.nucleus[..., None] * np.array([0.9, 1.0, 0.35])
    for _ in range(random.integers(0, 4)):
        # bubbles: a dark ring around bright light, as large as cells
        radius, distance = random.uniform(5, 14), _distance(random)
        lay_over(picture, np.array([250, 248, 250]), 0.7 * (distance < radius))
        lay_over(picture, np.array([90, 85, 95]), 0.7 * np.exp(-((distance - radius) ** 2)))
    for _ in range(random.integers(3, 12)):
        lay_over(picture, np.array([60, 40, 70]), random.uniform(0.4, 0.8) * _soft_disc(random, (0.8, 2.2), 0.4))
    picture = ndimage.gaussian_filter(picture, (0.6, 0.6, 0))
    return _photograph(picture + random.uniform(2, 6) * random.standard_normal((*SIZE, 1)))


MICROSCOPES = {"plain": plain, "stain": stain}


def _rim(cell: Cell) -> np.ndarray:
    """Return the outermost pixels of a cell, (H, W) bool."""
    return cell.mask & ~ndimage.binary_erosion(cell.mask)


def _soft_disc(random: Generator, radii: tuple[float, float], blur: float) -> np.ndarray:
    """Return a blurred disc at a random place, (H, W) float32 from 0 to 1."""
    inside = random.uniform(*radii) - _distance(random)
    return expit(inside / blur)


def _distance(random: Generator) -> np.ndarray:
    """Return each pixel's distance from a random place, (H, W) float32."""
    rows, columns = pixel_grid(SIZE)
    return np.hypot(rows - random.uniform(0, SIZE[0]), columns - random.uniform(0, SIZE[1]))


def _photograph(light: np.ndarray) -> np.ndarray:
    return np.clip(light, 0, 255).astype(np.uint8)
