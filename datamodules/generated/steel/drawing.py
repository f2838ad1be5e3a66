"""Strips of steel under a line camera, with four kinds of defects."""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from datamodules.generated.raster import Canvas, blob, distance_to_segment, pixel_grid, smooth_noise

PITS, LINES, SCRATCHES, PATCH = range(4)
# how often a defect is of which class: unequal, as in a mill
CLASS_SHARES = (0.22, 0.16, 0.38, 0.24)
# how many classes a strip shows: none, one, two
CLASS_NUMBER_SHARES = (0.2, 0.6, 0.2)


def draw_steel(random: Generator, size: tuple[int, int]) -> Canvas:
    """Draw a strip of a height and width in pixels."""
    canvas = Canvas(_bare_steel(random, size))
    painters = {PITS: paint_pits, LINES: paint_lines, SCRATCHES: paint_scratches, PATCH: paint_patch}
    number = random.choice(3, p=CLASS_NUMBER_SHARES)
    # the large ones first, or they would find no room
    for class_id in sorted(random.choice(4, number, replace=False, p=CLASS_SHARES).tolist(), reverse=True):
        canvas.place(random, class_id, painters[class_id])
    grain = random.uniform(2, 5) * random.standard_normal((*size, 1), dtype=np.float32)
    canvas.light = canvas.light + grain
    return canvas


def _bare_steel(random: Generator, size: tuple[int, int]) -> np.ndarray:
    """Return brushed steel in uneven light, with stains that are no defects, (H, W, 3) float32."""
    height, width = size
    rows, columns = pixel_grid(size)
    slope = random.uniform(-0.35, 0.35) * (columns / width - 0.5) + random.uniform(-0.2, 0.2) * (rows / height - 0.5)
    lamp = random.uniform(0, 0.3) * np.cos(2 * np.pi * (columns / width * random.uniform(0.5, 2) + random.random()))
    brushed = random.uniform(0.03, 0.07) * smooth_noise(random, size, (0.5, random.uniform(8, 25)))
    bands = random.uniform(0.0, 0.06) * smooth_noise(random, (1, width), (0, random.uniform(6, 15)))
    clouds = random.uniform(0.02, 0.07) * smooth_noise(random, size, (12, 25))
    light = random.uniform(75, 150) * (1 + slope + lamp + brushed + bands + clouds)
    for _ in range(random.integers(0, 4)):
        light *= 1 + _stain(random, size)
    if random.random() < 0.2:
        # the strip ends, and the camera sees nothing beside it
        edge = random.uniform(0.03, 0.2) * width
        from_edge = columns if random.random() < 0.5 else width - columns
        light = light * np.clip((from_edge - edge) / 3, 0.06, 1)
    return np.repeat(light[..., None], 3, axis=2).astype(np.float32)


def _stain(random: Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a soft spot, brighter or darker than its surroundings, (H, W)."""
    rows, columns = pixel_grid(size)
    row, column = random.uniform(0, size[0]), random.uniform(0, size[1])
    down, across = random.uniform(6, 25), random.uniform(6, 30)
    return random.uniform(-0.25, 0.25) * np.exp(-(((rows - row) / down) ** 2) - ((columns - column) / across) ** 2)


def _place(random: Generator, size: tuple[int, int], margin: tuple[float, float]) -> tuple[float, float]:
    """Return a random row and column at least so far from the border."""
    row, column = (random.uniform(gap, max(side - gap, gap + 1)) for side, gap in zip(size, margin, strict=True))
    return row, column


def paint_pits(random: Generator, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint a swarm of dark pits with bright rims; its mask holds them and the steel between close ones."""
    size = light.shape[:2]
    rows, columns = pixel_grid(size)
    center = _place(random, size, (12, 20))
    spread = random.uniform(5, 10), random.uniform(8, 20)
    change, pits = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=bool)
    depth = random.uniform(0.25, 0.5)
    for _ in range(random.integers(7, 22)):
        row, column = np.clip(random.normal(center, spread), 0, (size[0] - 1, size[1] - 1))
        radius = random.uniform(1.0, 2.2)
        distance = np.hypot(rows - row, columns - column) / radius
        change += depth * (0.5 * np.exp(-((distance - 1.6) ** 2) * 2) - np.exp(-(distance**2)))
        pits |= distance < 1.8
    # grown by so many pixels and shrunk again, which joins what is near
    grown = ndimage.distance_transform_edt(~np.pad(pits, 14)) < 8
    mask = ndimage.distance_transform_edt(grown)[14:-14, 14:-14] > 7
    return mask, light * (1 + np.clip(change, -0.6, 0.4))[..., None]


def paint_lines(random: Generator, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint one to three upright lines, all darker or all brighter than the steel."""
    size = light.shape[:2]
    row, column = _place(random, size, (15, 25))
    strength = random.choice((-1, 1)) * random.uniform(0.16, 0.35)
    change, mask = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=bool)
    for _ in range(random.integers(1, 4)):
        half = random.uniform(0.15, 0.45) * size[0]
        start = row - half + random.normal(0, 4), column + random.normal(0, 8)
        end = start[0] + 2 * half, start[1] + random.normal(0, 2)
        distance = distance_to_segment(size, start, end)
        thickness = random.uniform(1.8, 3.2)
        np.maximum(change, np.exp(-((distance / thickness) ** 2)), out=change)
        mask |= distance < thickness + 1.2
    return mask, light * (1 + strength * change)[..., None]


def paint_scratches(random: Generator, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint long scratches near the direction of rolling: a bright ridge with a shadow below."""
    size = light.shape[:2]
    row, column = _place(random, size, (10, 40))
    slope = random.uniform(-0.3, 0.3)
    strength = random.uniform(0.2, 0.45)
    change, mask = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=bool)
    for _ in range(random.integers(2, 6)):
        half = random.uniform(12, 45)
        middle = row + random.normal(0, 6), column + random.normal(0, 14)
        tilt = slope + random.normal(0, 0.04)
        ends = [(middle[0] + side * half * tilt, middle[1] + side * half) for side in (-1, 1)]
        ridge = distance_to_segment(size, ends[0], ends[1])
        shadow = distance_to_segment(size, (ends[0][0] + 2.2, ends[0][1]), (ends[1][0] + 2.2, ends[1][1]))
        thickness = random.uniform(1.1, 2.0)
        change += np.exp(-((ridge / thickness) ** 2)) - 0.7 * np.exp(-((shadow / thickness) ** 2))
        mask |= np.minimum(ridge, shadow) < thickness + 1
    wear = np.clip(1 + 0.5 * smooth_noise(random, (size[0], size[1]), (2, 6)), 0.2, 1.6)
    return mask, light * (1 + strength * wear * np.clip(change, -1, 1))[..., None]


def paint_patch(random: Generator, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paint a large patch of a rough skin, of about the steel's brightness, with a ragged outline."""
    size = (light.shape[0], light.shape[1])
    center = _place(random, size, (15, 35))
    mask = blob(random, size, center, (random.uniform(10, 22), random.uniform(16, 45)), 0.22)
    grain = random.uniform(0.14, 0.26) * smooth_noise(
        random, size, (random.uniform(0.8, 1.8), random.uniform(0.8, 1.8))
    )
    skin = random.uniform(-0.2, 0.12) + grain
    rim = -0.12 * np.exp(-(ndimage.distance_transform_edt(mask) ** 2) / 4)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.8)
    return mask, light * (1 + soft * np.clip(skin + rim, -0.6, 0.6))[..., None]
