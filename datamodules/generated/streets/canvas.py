"""A picture of materials, painted in meters.

World coordinates are meters: X to the right of the road's middle, Y up from the ground, Z away from the camera.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 96, 160
# drawn larger and averaged, for smooth edges
OVERSAMPLING = 2
FAR = 90.0
FOCAL_LENGTH = 105.0
STRIP_DEPTHS = np.geomspace(2.5, FAR, 14)

Rgb = tuple[float, float, float]
Point = tuple[float, float]


@dataclass
class Material:
    """A surface: its class and its looks.

    Args:
        class_id: Its class, 255 for none.
        color: Share of light it reflects, RGB from 0 to 1.
        depth: Distance in meters.
        roughness: Strength of its texture.
        glow: Light it sends out at night, RGB.
        wet: How much it mirrors at night.
    """

    class_id: int
    color: Rgb
    depth: float = FAR
    roughness: float = 0.04
    glow: Rgb = (0.0, 0.0, 0.0)
    wet: float = 0.0


@dataclass
class Street:
    """A street.

    Args:
        horizon: Row of the horizon, in pixels of the final image.
        vanishing: Column at which a straight road would end.
        materials: Surfaces by number.
        surface: (H * 2, W * 2) uint8 numbers of materials.
        lamps: Column and row of lamp heads, and meters to them.
    """

    horizon: float
    vanishing: float
    materials: list[Material] = field(default_factory=list)
    surface: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint8))
    lamps: list[tuple[float, float, float]] = field(default_factory=list)

    def class_ids(self) -> np.ndarray:
        """Return the classes, (H, W) uint8."""
        table = np.array([material.class_id for material in self.materials], dtype=np.uint8)
        return table[self.surface[::OVERSAMPLING, ::OVERSAMPLING]]


class StreetCanvas:
    """An image of material numbers, with a random camera and a random road below it.

    Args:
        random: Source of all that is random.
    """

    def __init__(self, random: Generator) -> None:
        self.random = random
        self.scene = Street(horizon=random.uniform(34, 46), vanishing=random.uniform(56, 104))
        self.camera_height = random.uniform(1.5, 2.2)
        self.curvature = random.uniform(-0.006, 0.006)
        self.half_road = random.uniform(3.0, 5.5)
        self.sidewalk = random.uniform(1.8, 3.5)
        self.image = Image.new("L", (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING))
        self.draw = ImageDraw.Draw(self.image)

    def material(
        self,
        class_id: int,
        color: Rgb,
        depth: float = FAR,
        roughness: float = 0.04,
        glow: Rgb = (0.0, 0.0, 0.0),
        wet: float = 0.0,
    ) -> int:
        """Register a surface, see `Material`, and return its number."""
        self.scene.materials.append(Material(class_id, color, depth, roughness, glow, wet))
        return len(self.scene.materials) - 1

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the place of a point of the world in the oversampled image."""
        column = self.scene.vanishing + FOCAL_LENGTH * (x / z + self.curvature * z / 2)
        row = self.scene.horizon + FOCAL_LENGTH * (self.camera_height - y) / z
        return column * OVERSAMPLING, row * OVERSAMPLING

    def polygon(self, points: list[tuple[float, float, float]], material: int) -> None:
        """Fill a polygon of points (x, y, z)."""
        self.draw.polygon([self.project(*point) for point in points], fill=material)

    def upright(self, left: float, right: float, bottom: float, top: float, z: float, material: int) -> None:
        """Fill a rectangle that faces the camera; left and right may be swapped."""
        x0, y0 = self.project(left, top, z)
        x1, y1 = self.project(right, bottom, z)
        self.draw.rectangle((min(x0, x1), y0, max(x0, x1), y1), fill=material)

    def ellipse(self, x: float, y: float, z: float, radius_x: float, radius_y: float, material: int) -> None:
        """Fill an ellipse that faces the camera, around a point."""
        x0, y0 = self.project(x - radius_x, y + radius_y, z)
        x1, y1 = self.project(x + radius_x, y - radius_y, z)
        self.draw.ellipse((x0, y0, max(x0, x1), max(y0, y1)), fill=material)

    def strip(self, left: float, right: float, material: int, near: float = 2.5, far: float = FAR) -> None:
        """Fill a band of ground along the road."""
        depths = [near, *STRIP_DEPTHS[(near < STRIP_DEPTHS) & (far > STRIP_DEPTHS)].tolist(), far]
        self.polygon([(left, 0.0, z) for z in depths] + [(right, 0.0, z) for z in reversed(depths)], material)

    def vary(self, color: Rgb, amount: float = 0.05) -> Rgb:
        """Return a random color near `color`."""
        red, green, blue = np.clip(np.array(color) + self.random.normal(0, amount, 3), 0.02, 0.98)
        return float(red), float(green), float(blue)

    def choose(self, colors: list[Rgb], amount: float = 0.05) -> Rgb:
        """Return a random color near one of `colors`."""
        return self.vary(colors[self.random.integers(len(colors))], amount)


def shaded(color: Rgb, factor: float) -> Rgb:
    """Return a color that is brighter or darker by a factor."""
    return min(color[0] * factor, 1.0), min(color[1] * factor, 1.0), min(color[2] * factor, 1.0)
