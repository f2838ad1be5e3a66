"""Streets by day and by night: from materials to colors."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from datamodules.generated.streets.canvas import HEIGHT, OVERSAMPLING, WIDTH, Street
from datamodules.generated.streets.drawing import SKY

ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None]
COLUMNS = np.arange(WIDTH, dtype=np.float32)[None, :]


def light_by_day(scene: Street, random: Generator) -> np.ndarray:
    """Return the street in sunlight, (H, W, 3) uint8."""
    sun = _rgb(1.0, 0.95, 0.86) * random.uniform(0.9, 1.12)
    haze = _rgb(0.8, 0.87, 0.95)
    depths = np.array([material.depth for material in scene.materials], dtype=np.float32)
    clear = np.exp(-depths / random.uniform(90, 220)).astype(np.float32)[:, None]
    # haze belongs to a material's distance, so it can be mixed in before there are pixels
    colors = _averaged(scene, _colors(scene) * sun * clear + haze * (1 - clear)) * _texture(scene, random)

    height = np.clip(ROWS / scene.horizon, 0, 1)[..., None]
    sky = _rgb(0.3, 0.54, 0.9) * random.uniform(0.85, 1.1) * (1 - height) + haze * height
    clouds = np.clip((_smooth_noise(random, 6, 16) - 0.5) * random.uniform(0.0, 1.6), 0, 1)
    sky = sky + (1 - sky) * clouds
    share = _sky_share(scene)
    return _photograph(colors * (1 - share) + sky * share, random, noise=0.012)


def light_by_night(scene: Street, random: Generator) -> np.ndarray:
    """Return the street in the light of windows, lamps and headlights, (H, W, 3) uint8."""
    light = _rgb(0.045, 0.1, 0.27) * random.uniform(0.8, 1.2)
    light = light + _headlights(scene) * _rgb(1.0, 0.92, 0.72) * random.uniform(0.7, 1.0)
    light += _lamp_light(scene) * _rgb(1.0, 0.68, 0.34) * random.uniform(0.3, 0.55)
    colors = _averaged(scene, _colors(scene)) * light * _texture(scene, random)

    height = np.clip(ROWS / scene.horizon, 0, 1)[..., None]
    share = _sky_share(scene)
    colors = colors * (1 - share) + (_rgb(0.006, 0.012, 0.04) + height**3 * _rgb(0.015, 0.025, 0.06)) * share

    glow = _averaged(scene, np.array([material.glow for material in scene.materials], dtype=np.float32))
    colors += glow * 0.8 + _blurred(glow) * 0.9
    wet = _averaged(scene, np.array([[material.wet] for material in scene.materials], dtype=np.float32))
    colors += wet * _reflection(scene, colors) * random.uniform(0.5, 1.0)
    # the camera's gamma lifts the shadows, or a viewer would see little but lamps
    return _photograph(np.clip(colors, 0, 1) ** 0.62, random, noise=0.035)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], dtype=np.float32)


def _colors(scene: Street) -> np.ndarray:
    return np.array([material.color for material in scene.materials], dtype=np.float32)


def _averaged(scene: Street, table: np.ndarray) -> np.ndarray:
    """Return (H, W, C) averages of a table of values per material, (materials, C)."""
    steps = range(OVERSAMPLING)
    total = sum(
        np.take(table, scene.surface[row::OVERSAMPLING, column::OVERSAMPLING], axis=0)
        for row in steps
        for column in steps
    )
    return np.asarray(total) / OVERSAMPLING**2


def _sky_share(scene: Street) -> np.ndarray:
    """Return how much of each pixel is sky, (H, W, 1)."""
    return _averaged(scene, np.array([[material.class_id == SKY] for material in scene.materials], dtype=np.float32))


def _texture(scene: Street, random: Generator) -> np.ndarray:
    """Return a factor around 1 for every pixel, coarse and fine noise as strong as the material is rough."""
    roughness = _averaged(scene, np.array([[material.roughness] for material in scene.materials], dtype=np.float32))
    fine = random.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    return 1 + roughness * (2.5 * (_smooth_noise(random, 2, 2) - 0.5) + 0.5 * fine)


def _smooth_noise(random: Generator, cell_height: int, cell_width: int) -> np.ndarray:
    """Return noise from 0 to 1 in interpolated cells of so many pixels, (H, W, 1)."""
    grid = random.integers(0, 256, (HEIGHT // cell_height, WIDTH // cell_width), dtype=np.uint8)
    smooth = Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32)[..., None] / 255


def _headlights(scene: Street) -> np.ndarray:
    """Return the light of the own headlights, (H, W, 1): a cone on the road that reaches a little above the horizon."""
    below = ROWS - scene.horizon
    middle = scene.vanishing + (WIDTH / 2 - scene.vanishing) * np.clip(below / (HEIGHT - scene.horizon), 0, 1) * 0.5
    spread = 9 + 0.75 * np.clip(below, 0, None)
    along = np.where(below > 12, np.exp(-(((below - 12) / 38) ** 2)), np.exp(-(((below - 12) / 9) ** 2)))
    return (np.exp(-(((COLUMNS - middle) / spread) ** 2)) * along)[..., None]


def _lamp_light(scene: Street) -> np.ndarray:
    """Return the light of street lamps on what is near them, (H, W, 1)."""
    light = np.full((HEIGHT, WIDTH), 0.12, dtype=np.float32)
    for column, row, depth in scene.lamps:
        reach = 420 / depth
        sideways = np.exp(-(((COLUMNS - column) / reach) ** 2))
        light += sideways * np.exp(-(((ROWS - row - reach) / (1.6 * reach)) ** 2))
    return light[..., None]


def _reflection(scene: Street, colors: np.ndarray) -> np.ndarray:
    """Return what a wet ground mirrors: the upper part upside down, drawn out into streaks, (H, W, 3)."""
    mirror = np.clip(2 * scene.horizon - np.arange(HEIGHT)[:, None] + np.array([-1, 1, 3, 5, 7]), 0, HEIGHT - 1)
    streaks = np.minimum(colors, 1.2)[mirror.astype(int)].mean(axis=1)
    return np.where(ROWS[..., None] > scene.horizon, streaks, 0)


def _blurred(colors: np.ndarray) -> np.ndarray:
    image = Image.fromarray((np.clip(colors, 0, 2) * 127.5).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(2.5)).filter(ImageFilter.BoxBlur(2.5)), np.float32) / 127.5


def _photograph(colors: np.ndarray, random: Generator, noise: float) -> np.ndarray:
    """Add the sensor's noise to colors from 0 to 1."""
    colors = colors + noise * random.standard_normal(colors.shape, dtype=np.float32)
    return (np.clip(colors, 0, 1) * 255).astype(np.uint8)
