"""Plain shapes on smooth colors: what a network learns to cut out before it sees any steel."""

from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from datamodules.generated.raster import Canvas, blob, distance_to_segment, pixel_grid, smooth_noise

SHAPE_CLASSES = ("ellipse", "bar", "polygon", "blob")
# least difference of a shape's color from its ground, of 255
LEAST_CONTRAST = 28


def draw_shapes(random: Generator, size: tuple[int, int]) -> Canvas:
    """Draw one to three classes of shapes, each once or as a small group."""
    canvas = Canvas(_smooth_ground(random, size))
    for class_id in random.choice(len(SHAPE_CLASSES), random.integers(1, 4), replace=False).tolist():
        canvas.place(random, class_id, partial(_paint_group, kind=class_id))
    canvas.light = canvas.light + random.uniform(1, 6) * random.standard_normal(canvas.light.shape, dtype=np.float32)
    return canvas


def _smooth_ground(random: Generator, size: tuple[int, int]) -> np.ndarray:
    """Return two colors that run into each other, with soft clouds, (H, W, 3) float32."""
    rows, columns = pixel_grid(size)
    angle = random.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.5 * (np.cos(angle) * (columns / size[1] - 0.5) + np.sin(angle) * (rows / size[0] - 0.5))
    clouds = random.uniform(0, 0.25) * smooth_noise(random, size, (random.uniform(4, 16), random.uniform(4, 30)))
    share = np.clip(ramp + clouds, 0, 1)[..., None]
    one = random.uniform(50, 200, 3)
    other = np.clip(one + random.normal(0, 25, 3), 30, 220)
    return (one * (1 - share) + other * share).astype(np.float32)


def _paint_group(random: Generator, light: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint shapes of one kind and color, mostly a single one."""
    size = (light.shape[0], light.shape[1])
    center = random.uniform(8, size[0] - 8), random.uniform(12, size[1] - 12)
    number = 1 if random.random() < 0.65 else random.integers(2, 6)
    scale = random.uniform(9, 28) / number**0.5
    mask = np.zeros(size, dtype=bool)
    for _ in range(number):
        spread = (0.0, 0.0) if number == 1 else (8.0, 22.0)
        row, column = random.normal(center, spread)
        mask |= _shape(random, size, kind, (row, column), scale)
    if not mask.any():
        return mask, light
    ground = light[mask].mean(axis=0)
    color = random.uniform(20, 235, 3)
    if abs(float((color - ground).mean())) < LEAST_CONTRAST:
        color = ground + (LEAST_CONTRAST + 20) * (1 if ground.mean() < 128 else -1)
    texture = random.uniform(0, 22) * smooth_noise(random, size, (random.uniform(0.7, 3), random.uniform(0.7, 3)))
    alpha = ndimage.gaussian_filter(mask.astype(np.float32), random.uniform(0.4, 0.9))[..., None]
    opacity = random.uniform(0.7, 1.0)
    return mask, light * (1 - opacity * alpha) + opacity * alpha * (color + texture[..., None])


def _shape(
    random: Generator, size: tuple[int, int], kind: int, center: tuple[float, float], scale: float
) -> np.ndarray:
    """Return one shape, (H, W) bool."""
    angle = random.uniform(0, np.pi)
    if SHAPE_CLASSES[kind] == "ellipse":
        rows, columns = pixel_grid(size)
        down, across = rows - center[0], columns - center[1]
        long, short = scale, scale * random.uniform(0.4, 1)
        along, aside = down * np.sin(angle) + across * np.cos(angle), down * np.cos(angle) - across * np.sin(angle)
        return np.hypot(along / long, aside / short) < 1
    if SHAPE_CLASSES[kind] == "bar":
        half = scale * random.uniform(0.8, 2.2)
        offset = half * np.sin(angle), half * np.cos(angle)
        ends = [(center[0] + side * offset[0], center[1] + side * offset[1]) for side in (-1, 1)]
        return distance_to_segment(size, ends[0], ends[1]) < random.uniform(2, 5)
    if SHAPE_CLASSES[kind] == "polygon":
        corners = random.integers(3, 7)
        angles = angle + 2 * np.pi * (np.arange(corners) + random.uniform(-0.3, 0.3, corners)) / corners
        points = [
            (center[1] + scale * np.cos(turn) * stretch, center[0] + scale * np.sin(turn) * stretch)
            for turn, stretch in zip(angles, random.uniform(0.6, 1.2, corners), strict=True)
        ]
        image = Image.new("1", (size[1], size[0]))
        ImageDraw.Draw(image).polygon(points, fill=1)
        return np.asarray(image)
    return blob(random, size, center, (scale * random.uniform(0.5, 1), scale * random.uniform(0.8, 1.6)), 0.25)
