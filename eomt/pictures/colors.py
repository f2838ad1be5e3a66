"""Colors of classes, far apart for all eyes."""

from functools import lru_cache

import numpy as np

from eomt.utils.labels import IGNORE_INDEX

Color = tuple[int, int, int]

# Okabe and Ito's colors, chosen to stay apart under the common color-vision deficiencies. Their black is left out,
# since a translucent black only darkens; the strongest contrasts come first, for data sets with few classes.
OKABE_ITO: list[Color] = [
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
    (213, 94, 0),
]

INK: Color = (32, 32, 32)
PAPER: Color = (255, 255, 255)


def _perceived(rgb: np.ndarray) -> np.ndarray:
    """Return what colors look like: OKLab (Ottosson 2020) for normal vision, then for a deuteranope.

    Args:
        rgb: `(N, 3)`, in [0, 255].

    Returns:
        `(2, N, 3)`: distances between rows are distances between colors as seen.
    """
    linear = (rgb / 255.0) ** 2.2
    # Vienot, Brettel and Mollon 1999: red and green collapse onto one axis
    deuteranope = linear @ np.array([[0.29275, 0.29275, -0.02234], [0.70725, 0.70725, 0.02234], [0.0, 0.0, 1.0]])
    cones_from_rgb = np.array(
        [[0.41222, 0.21190, 0.08830], [0.53633, 0.68070, 0.28172], [0.05145, 0.10740, 0.62998]],
    )
    lab_from_cones = np.array(
        [[0.21045, 1.97800, 0.02590], [0.79362, -2.42859, 0.78277], [-0.00407, 0.45059, -0.80868]],
    )
    seen = np.stack([linear, deuteranope]).clip(0, None)
    return np.cbrt(seen @ cones_from_rgb) @ lab_from_cones


@lru_cache
def _palette(num_classes: int) -> tuple[Color, ...]:
    levels = np.linspace(0, 255, 12).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    # near black and near white a translucent color cannot be told from shadow and light
    candidates = candidates[(candidates.max(1) > 90) & (candidates.min(1) < 200)]
    colors = np.concatenate([np.array(OKABE_ITO, dtype=float), candidates])
    seen = _perceived(colors)

    chosen = list(range(min(num_classes, len(OKABE_ITO))))
    nearest = np.full(len(colors), np.inf)
    for index in range(num_classes):
        if index == len(chosen):
            chosen.append(int(nearest.argmax()))  # farthest from every color taken so far
        distance = np.linalg.norm(seen - seen[:, chosen[index], None], axis=-1)
        nearest = np.minimum(nearest, distance.min(0))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors[chosen])


def palette(num_classes: int) -> list[Color]:
    """Return one color per class, far apart for normal and for color-blind eyes, the same in every run.

    The first colors are Okabe and Ito's; each further one is the farthest from those before it, so a class keeps its
    color when classes are added.

    Args:
        num_classes: 1 to 255.

    Returns:
        `num_classes` RGB triples in [0, 255].
    """
    assert 0 < num_classes <= IGNORE_INDEX, f"{num_classes} classes do not fit an 8-bit mask"
    return list(_palette(num_classes))
