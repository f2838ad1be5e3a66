"""Drawn scenes to ask about: one to three colored shapes, and their picture by day or at night."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from datamodules.generated.raster import lay_over, pixel_grid, smooth_noise

Look = Literal["plain", "night"]

SIZE = 56
# drawn larger and averaged, for smooth edges
OVERSAMPLING = 3
SHAPES = ("circle", "square", "triangle", "star", "cross")
# hue of each color in degrees
HUES = {"red": 0, "yellow": 57, "green": 122, "cyan": 184, "blue": 230, "purple": 292}
COLORS = tuple(HUES)
HUE_SPREAD = 7
SIDES = ("left", "right", "top", "bottom")
MOST_THINGS = 3
RADII = (7.0, 10.5)
# pixels that stay free between two things, and at the border
GAP = 2
# pixels from the middle that a thing to one side lies, and how far it may then be off the other axis
ASIDE = (11.5, 17.0)
ACROSS = 5.0
# pixels by which one direction must outweigh the other before a place has a name
CLEARLY = 5.0
# share of things that are put to one side, so that there is a place to ask for
ASIDE_SHARE = 0.7
OUTLINE = 2.0


def _polygon(radii: Sequence[float], start: float = 0.0) -> list[tuple[float, float]]:
    """Return corners at even angles and given distances around (0, 0), the first one `start` turns from the top."""
    turns = [2 * math.pi * (index / len(radii) + start) for index in range(len(radii))]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for radius, turn in zip(radii, turns, strict=True)]


# (x, y) of each shape's corners; y grows downwards, 1 is the radius
CORNERS = {
    # smaller: a round shape looks larger than a pointed one
    "circle": _polygon([0.88] * 24),
    "square": _polygon([1.0] * 4, start=1 / 8),
    "triangle": _polygon([1.0] * 3),
    "star": _polygon([1.0, 0.42] * 5),
    "cross": [
        (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32), (0.32, 0.95),
        (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32), (-0.32, -0.95),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A colored shape.

    Args:
        shape: One of `SHAPES`.
        color: One of `COLORS`.
        row: Of its middle, in pixels from the top.
        column: Of its middle, in pixels from the left.
        radius: Of the circle around it, in pixels.
        angle: By which it is turned, in radians.
    """

    shape: str
    color: str
    row: float
    column: float
    radius: float
    angle: float

    @property
    def side(self) -> str | None:
        """Side of the picture on which it lies, one of `SIDES`; None where people might disagree."""
        across, down = self.column - SIZE / 2, self.row - SIZE / 2
        if abs(across) > abs(down) + CLEARLY:
            return "left" if across < 0 else "right"
        if abs(down) > abs(across) + CLEARLY:
            return "top" if down < 0 else "bottom"
        return None


@dataclass(frozen=True)
class ShapeScene:
    """Things, none of which touches another.

    Args:
        things: One to three.
        counted: The shape or color of which there are 0, 1, 2 or 3, each as likely.
    """

    things: tuple[Thing, ...]
    counted: str


def make_scene(random: Generator) -> ShapeScene:
    """Make up a scene.

    No color, shape or side is likelier than another one. Either no color or no shape occurs twice, so that something
    can always be called by its name.
    """
    by_shape = random.random() < 0.5
    counted_words, other_words = (SHAPES, COLORS) if by_shape else (COLORS, SHAPES)
    counted = counted_words[random.integers(len(counted_words))]
    number = int(random.integers(MOST_THINGS + 1))
    total = int(random.integers(max(number, 1), MOST_THINGS + 1))
    rest = [word for word in counted_words if word != counted]
    words = [counted] * number + [rest[random.integers(len(rest))] for _ in range(total - number)]
    others = [other_words[index] for index in random.permutation(len(other_words))[:total]]
    things = []
    for word, other, (row, column, radius) in zip(words, others, _places(random, total), strict=True):
        shape, color = (word, other) if by_shape else (other, word)
        things.append(Thing(shape, color, row, column, radius, math.radians(random.uniform(-20, 20))))
    return ShapeScene(tuple(things), counted)


def render_shapes(scene: ShapeScene, look: Look, random: Generator) -> np.ndarray:
    """Return the picture of a scene, (56, 56, 3) uint8.

    Args:
        scene: What is to be seen.
        look: "plain": filled shapes of strong colors on an even, bright ground. "night": their dim outlines in tinted
            light, on a dark ground with clouds and stripes, with a strong noise.
        random: Source of shades, ground and noise.
    """
    light = _plain(scene, random) if look == "plain" else _night(scene, random)
    return (np.clip(light, 0, 1) * 255).astype(np.uint8)


def _places(random: Generator, number: int) -> list[tuple[float, float, float]]:
    """Return row, column and radius of things that do not touch; all are drawn anew until they fit."""
    while True:
        places = [_place(random) for _ in range(number)]
        pairs = [(one, other) for index, one in enumerate(places) for other in places[:index]]
        if all(math.dist(one[:2], other[:2]) > one[2] + other[2] + GAP for one, other in pairs):
            return places


def _place(random: Generator) -> tuple[float, float, float]:
    radius = random.uniform(*RADII)
    furthest = SIZE / 2 - GAP - radius
    if random.random() < ASIDE_SHARE:
        along = min(random.uniform(*ASIDE), furthest) * (1 if random.random() < 0.5 else -1)
        across = random.uniform(-ACROSS, ACROSS)
        row, column = (along, across) if random.random() < 0.5 else (across, along)
    else:
        row, column = random.uniform(-furthest, furthest, 2)
    return float(row) + SIZE / 2, float(column) + SIZE / 2, radius


def _plain(scene: ShapeScene, random: Generator) -> np.ndarray:
    light = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    light[:] = random.uniform(0.8, 0.97) + random.normal(0, 0.015, 3)
    for thing in scene.things:
        color = _shade(thing, random, saturation=(0.8, 1.0), value=(0.72, 0.97))
        lay_over(light, color, _cover(thing, inside=1, border=0))
    return light + random.uniform(0.005, 0.02) * random.standard_normal(light.shape, dtype=np.float32)


def _night(scene: ShapeScene, random: Generator) -> np.ndarray:
    tint = random.uniform(0.9, 1.08, 3)
    clouds = smooth_noise(random, (SIZE, SIZE), (random.uniform(2, 8), random.uniform(2, 8)))
    ground = random.uniform(0.08, 0.2) + random.uniform(0.02, 0.05) * clouds + _stripes(random)
    light = (np.clip(ground, 0, 1)[..., None] * tint).astype(np.float32)
    for thing in scene.things:
        color = _shade(thing, random, saturation=(0.65, 0.95), value=(0.6, 0.85)) * tint
        lay_over(light, color, _cover(thing, inside=random.uniform(0, 0.15), border=OUTLINE))
    return light + random.uniform(0.03, 0.06) * random.standard_normal(light.shape, dtype=np.float32)


def _stripes(random: Generator) -> np.ndarray:
    """Return faint stripes around 0, (H, W)."""
    rows, columns = pixel_grid((SIZE, SIZE))
    angle, length = random.uniform(0, np.pi), random.uniform(4, 12)
    phase = 2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / length
    return np.asarray(random.uniform(0.01, 0.05) * np.sin(phase + random.uniform(0, 2 * np.pi)))


def _shade(thing: Thing, random: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """Return a shade of a thing's color, (3,)."""
    hue = (HUES[thing.color] + random.uniform(-HUE_SPREAD, HUE_SPREAD)) / 360
    return np.array(colorsys.hsv_to_rgb(hue % 1, random.uniform(*saturation), random.uniform(*value)))


def _cover(thing: Thing, inside: float, border: float) -> np.ndarray:
    """Return how far each pixel is covered by a thing, (H, W) float32 from 0 to 1.

    Args:
        thing: The thing.
        inside: Share within its outline, 0 to 1.
        border: Width of the outline, which covers all, in pixels; 0 for none.
    """
    picture = Image.new("L", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    draw = ImageDraw.Draw(picture)
    points = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in _outline(thing)]
    draw.polygon(points, fill=round(255 * inside))
    if border:
        draw.line([*points, *points[:2]], fill=255, width=round(border * OVERSAMPLING), joint="curve")
    return np.asarray(picture.reduce(OVERSAMPLING), dtype=np.float32) / 255


def _outline(thing: Thing) -> list[tuple[float, float]]:
    """Return the corners of a thing as (column, row) in pixels."""
    cosine, sine = math.cos(thing.angle) * thing.radius, math.sin(thing.angle) * thing.radius
    corners = CORNERS[thing.shape]
    return [(thing.column + x * cosine - y * sine, thing.row + x * sine + y * cosine) for x, y in corners]
