"""A picture in the making: light, and what its objects cover."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from scipy import ndimage

# tries to find an object a place of its own
ATTEMPTS = 12
# pixels below which what is left of an object at the border is no object
LEAST_AREA = 40
# pixels that stay free between objects of different classes
GAP = 3

# draws an object into the light and returns its mask (H, W) bool and the new light
Painter = Callable[[Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Canvas:
    """An image and the masks of its classes.

    Args:
        light: (H, W, 3) float32, 0 is black and 255 is white.
        masks: Class id -> (H, W) bool.
    """

    light: np.ndarray
    masks: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.light.shape[0], self.light.shape[1]

    def place(self, random: Generator, class_id: int, painter: Painter) -> None:
        """Paint an object of a class where no other one is; where no room is found, leave it out."""
        taken = np.zeros(self.size, dtype=bool)
        for mask in self.masks.values():
            taken |= mask
        taken = ndimage.binary_dilation(taken, iterations=GAP)
        for _ in range(ATTEMPTS):
            mask, light = painter(random, self.light)
            if mask.sum() >= LEAST_AREA and not (mask & taken).any():
                self.light, self.masks[class_id] = light, mask
                return

    def image(self) -> np.ndarray:
        """Return the picture, (H, W, 3) uint8."""
        return np.clip(self.light, 0, 255).astype(np.uint8)


def smooth_noise(random: Generator, size: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Return noise of mean 0 and deviation 1, blurred by `sigma` pixels down and across, (H, W) float32."""
    noise = ndimage.gaussian_filter(random.standard_normal(size, dtype=np.float32), sigma, mode="reflect")
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-6)


def lay_over(picture: np.ndarray, color: np.ndarray, share: np.ndarray) -> None:
    """Lay a color over a picture, in place.

    Args:
        picture: (H, W, 3) float32.
        color: (3,), or (H, W, 3) for one of each pixel.
        share: How far each pixel is covered, (H, W) from 0 to 1.
    """
    picture += (color.astype(np.float32) - picture) * share[..., None]


def pixel_grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of each pixel, (H, 1) and (1, W) float32."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return rows.astype(np.float32), columns.astype(np.float32)


def distance_to_segment(size: tuple[int, int], start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Return each pixel's distance to a segment between two points (row, column), (H, W) float32."""
    rows, columns = pixel_grid(size)
    down, across = end[0] - start[0], end[1] - start[1]
    along = ((rows - start[0]) * down + (columns - start[1]) * across) / max(down**2 + across**2, 1e-6)
    along = np.clip(along, 0, 1)
    return np.hypot(rows - start[0] - along * down, columns - start[1] - along * across)


def blob(
    random: Generator, size: tuple[int, int], center: tuple[float, float], radii: tuple[float, float], roughness: float
) -> np.ndarray:
    """Return an ellipse around (row, column) with a wavy outline, (H, W) bool, connected unless it is cut off."""
    rows, columns = pixel_grid(size)
    down, across = (rows - center[0]) / radii[0], (columns - center[1]) / radii[1]
    angle = np.arctan2(down, across)
    radius = np.ones(size, dtype=np.float32)
    for waves in range(2, 7):
        radius += roughness / waves**0.7 * random.normal() * np.cos(waves * angle + random.uniform(0, 2 * np.pi))
    return np.hypot(down, across) < np.maximum(radius, 0.3)
