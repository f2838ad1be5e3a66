"""Things that no street of the training data shows, set down on a drawn street."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from datamodules.generated.streets.canvas import FOCAL_LENGTH, OVERSAMPLING, Material, Rgb, Street, shaded
from datamodules.generated.streets.drawing import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION

# a class that only scenes with obstacles have
UNKNOWN = 7
CAMERA_HEIGHT = 1.85
NEAREST, FARTHEST = 6.0, 13.0

HIDES: list[Rgb] = [(0.45, 0.3, 0.18), (0.85, 0.8, 0.72), (0.22, 0.17, 0.14), (0.62, 0.45, 0.28)]
PAINTS: list[Rgb] = [(0.9, 0.45, 0.08), (0.55, 0.2, 0.6), (0.1, 0.6, 0.55), (0.92, 0.8, 0.15), (0.85, 0.35, 0.5)]
WOODS: list[Rgb] = [(0.62, 0.45, 0.26), (0.5, 0.36, 0.2), (0.72, 0.6, 0.42)]


def add_obstacles(scene: Street, random: Generator) -> Street:
    """Return the scene with one or two unknown objects on its road or sidewalks, of class `UNKNOWN`.

    Cars and persons nearer to the camera cover them.
    """
    surface = scene.surface
    for _ in range(random.integers(1, 3)):
        obstacle = _Obstacle(scene, random)
        KINDS[random.integers(len(KINDS))](obstacle)
        surface = obstacle.laid_over(surface)
    scene.surface = surface
    return scene


class _Obstacle:
    """An object of meters, drawn around its foot point: X to the right, Y up."""

    def __init__(self, scene: Street, random: Generator) -> None:
        self.scene = scene
        self.random = random
        classes = np.array([material.class_id for material in scene.materials], dtype=np.uint8)
        self.is_ground = np.isin(classes, (ROAD, SIDEWALK))
        self.row, self.column = self._foot_point()
        self.depth = FOCAL_LENGTH * CAMERA_HEIGHT / (self.row / OVERSAMPLING - scene.horizon)
        self.scale = FOCAL_LENGTH / self.depth * OVERSAMPLING
        self.mirror = random.choice((-1, 1))
        self.image = Image.new("L", scene.surface.shape[::-1])
        self.draw = ImageDraw.Draw(self.image)

    def _foot_point(self) -> tuple[int, int]:
        """Return a random row and column of ground in reach."""
        ground = self.is_ground[self.scene.surface]
        rows = [
            round((self.scene.horizon + FOCAL_LENGTH * CAMERA_HEIGHT / depth) * OVERSAMPLING)
            for depth in (FARTHEST, NEAREST)
        ]
        in_reach = ground[rows[0] : rows[1], 20:-20]
        # a street without any ground in reach cannot be: the road begins at the camera
        places = np.argwhere(in_reach)
        row, column = places[self.random.integers(len(places))]
        return int(row) + rows[0], int(column) + 20

    def material(self, color: Rgb, roughness: float = 0.04) -> int:
        """Register a surface of the object and return its number, one above its place in the list: 0 is nothing."""
        self.scene.materials.append(Material(UNKNOWN, color, depth=self.depth, roughness=roughness))
        return len(self.scene.materials)

    def choose(self, colors: list[Rgb]) -> Rgb:
        """Return a random color near one of `colors`."""
        base = np.array(colors[self.random.integers(len(colors))])
        red, green, blue = np.clip(base + self.random.normal(0, 0.05, 3), 0.02, 0.98)
        return float(red), float(green), float(blue)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a place."""
        return self.column + self.mirror * x * self.scale, self.row - y * self.scale

    def polygon(self, points: list[tuple[float, float]], material: int) -> None:
        """Fill a polygon."""
        self.draw.polygon([self.point(*point) for point in points], fill=material)

    def box(self, left: float, right: float, bottom: float, top: float, material: int) -> None:
        """Fill a rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], material)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, material: int) -> None:
        """Fill an ellipse around a place."""
        (x0, y0), (x1, y1) = self.point(x - radius_x, y + radius_y), self.point(x + radius_x, y - radius_y)
        self.draw.ellipse((min(x0, x1), y0, max(x0, x1), y1), fill=material)

    def laid_over(self, surface: np.ndarray) -> np.ndarray:
        """Return the surface with the object in front of all that is not nearer."""
        drawn = np.asarray(self.image)
        depths = np.array([material.depth for material in self.scene.materials])
        classes = np.array([material.class_id for material in self.scene.materials])
        # ground and walls are behind whatever stands on the street; the own car is before it all
        is_behind = np.isin(classes, (ROAD, SIDEWALK, BUILDING, VEGETATION, SKY)) | (depths >= self.depth)
        assert len(classes) <= np.iinfo(surface.dtype).max, "a scene has more materials than its surface can number"
        return np.where((drawn > 0) & is_behind[surface], drawn - 1, surface).astype(surface.dtype)


def _animal(obstacle: _Obstacle) -> None:
    """Draw a beast on four legs, with patches."""
    size = obstacle.random.uniform(0.8, 1.25)
    color = obstacle.choose(HIDES)
    hide, shade = obstacle.material(color, 0.1), obstacle.material(shaded(color, 0.7), 0.1)
    patch = obstacle.material(obstacle.choose(HIDES), 0.1)
    for x, material in ((-0.62, shade), (0.48, shade), (-0.75, hide), (0.6, hide)):
        obstacle.box(x * size, (x + 0.15) * size, 0, 0.8 * size, material)
    obstacle.ellipse(0, 1.0 * size, 0.95 * size, 0.4 * size, hide)
    for x, y in obstacle.random.uniform((-0.6, 0.85), (0.4, 1.15), (2, 2)).tolist():
        obstacle.ellipse(x * size, y * size, 0.22 * size, 0.16 * size, patch)
    neck = obstacle.random.uniform(0.1, 0.6)
    obstacle.polygon(
        [(0.55 * size, 1.1 * size), (0.85 * size, 0.9 * size), (1.2 * size, (1.2 + neck) * size)]
        + [(0.95 * size, (1.35 + neck) * size)],
        hide,
    )
    obstacle.ellipse(1.2 * size, (1.3 + neck) * size, 0.3 * size, 0.17 * size, shade)
    for x in (0.98, 1.1):
        obstacle.polygon(
            [(x * size, (1.4 + neck) * size), ((x + 0.1) * size, (1.4 + neck) * size)]
            + [((x - 0.02) * size, (1.65 + neck) * size)],
            patch,
        )


def _crates(obstacle: _Obstacle) -> None:
    """Draw wooden boxes, one on the other."""
    bottom = 0.0
    for _ in range(obstacle.random.integers(1, 4)):
        size, shift = obstacle.random.uniform(0.6, 1.0), obstacle.random.uniform(-0.15, 0.15)
        color = obstacle.choose(WOODS)
        face, side = obstacle.material(color, 0.08), obstacle.material(shaded(color, 0.65), 0.08)
        board = obstacle.material(shaded(color, 0.8), 0.08)
        left, right, top = shift - size / 2, shift + size / 2, bottom + size * 0.8
        obstacle.polygon([(right, bottom), (right + 0.3, bottom + 0.18), (right + 0.3, top + 0.18), (right, top)], side)
        obstacle.polygon([(left, top), (right, top), (right + 0.3, top + 0.18), (left + 0.3, top + 0.18)], board)
        obstacle.box(left, right, bottom, top, face)
        obstacle.box(left, right, bottom + size * 0.33, bottom + size * 0.43, side)
        obstacle.polygon([(left, bottom), (left + 0.12, bottom), (right, top), (right - 0.12, top)], board)
        bottom = top


def _ball(obstacle: _Obstacle) -> None:
    """Draw a large ball of two colors."""
    radius = obstacle.random.uniform(0.45, 0.75)
    first, second = obstacle.material(obstacle.choose(PAINTS)), obstacle.material(obstacle.choose(PAINTS))
    obstacle.ellipse(0, radius, radius, radius, first)
    obstacle.ellipse(0, radius, radius * 0.45, radius, second)
    obstacle.ellipse(0, radius, radius * 0.12, radius, first)


def _cone(obstacle: _Obstacle) -> None:
    """Draw a traffic cone as high as a person."""
    height = obstacle.random.uniform(1.2, 1.8)
    color, band = obstacle.material(obstacle.choose(PAINTS[:1])), obstacle.material((0.92, 0.92, 0.9))
    obstacle.box(-0.32 * height, 0.32 * height, 0, 0.1 * height, color)
    obstacle.polygon([(-0.24 * height, 0.1 * height), (0.24 * height, 0.1 * height), (0.0, height)], color)
    for low in (0.3, 0.58):
        widths = [0.24 * height * (1 - (share - 0.1) / 0.9) for share in (low, low + 0.13)]
        obstacle.polygon(
            [(-widths[0], low * height), (widths[0], low * height)]
            + [(widths[1], (low + 0.13) * height), (-widths[1], (low + 0.13) * height)],
            band,
        )


def _sofa(obstacle: _Obstacle) -> None:
    """Draw a sofa, lost from a lorry."""
    color = obstacle.choose(PAINTS)
    back, seat = obstacle.material(shaded(color, 0.8), 0.06), obstacle.material(color, 0.06)
    arm = obstacle.material(shaded(color, 0.65), 0.06)
    obstacle.box(-1.1, 1.1, 0.1, 1.0, back)
    obstacle.box(-0.85, 0.85, 0.12, 0.5, seat)
    for side in (-1, 1):
        obstacle.box(side * 1.2, side * 0.85, 0.05, 0.7, arm)


KINDS: list[Callable[[_Obstacle], None]] = [_animal, _animal, _crates, _ball, _cone, _sofa]
