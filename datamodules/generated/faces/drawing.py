"""Drawn faces: what a person looks like, how a photo is taken, and the picture that comes of both.

Face coordinates: u to the right and v down from the middle of the face, 1 is half its height.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from datamodules.generated.raster import lay_over

SIZE = 64
# drawn larger and averaged, for smooth edges
OVERSAMPLING = 2

Field = np.ndarray

# mean and spread of each length and shape; fractions of half the face's height
SHAPE = {
    "width": (0.74, 0.06),
    "jaw": (0.22, 0.10),
    "eye_distance": (0.32, 0.03),
    "eye_height": (-0.10, 0.035),
    "eye_width": (0.135, 0.018),
    "eye_opening": (0.065, 0.014),
    "brow_height": (0.17, 0.025),
    "brow_thickness": (0.035, 0.010),
    "brow_slant": (0.0, 0.20),
    "nose_length": (0.38, 0.04),
    "nose_width": (0.12, 0.022),
    "mouth_height": (0.50, 0.035),
    "mouth_width": (0.26, 0.035),
    "lip_thickness": (0.065, 0.016),
    "hairline": (-0.62, 0.09),
    "hair_part": (0.0, 0.35),
    "hair_width": (0.16, 0.05),
    "hair_length": (0.15, 0.40),
    "ears": (0.09, 0.02),
}
# lengths that may not vanish
LEAST = {"brow_thickness": 0.015, "lip_thickness": 0.03, "eye_opening": 0.035, "hair_width": 0.05}
SKIN_TONES = np.array([[0.96, 0.80, 0.70], [0.88, 0.67, 0.53], [0.74, 0.53, 0.39], [0.52, 0.35, 0.25]])
HAIR_COLORS = np.array(
    [[0.10, 0.08, 0.07], [0.28, 0.17, 0.10], [0.55, 0.38, 0.20], [0.75, 0.60, 0.36], [0.5, 0.5, 0.5]]
)
IRIS_COLORS = np.array([[0.25, 0.15, 0.08], [0.30, 0.42, 0.55], [0.30, 0.40, 0.25]])


@dataclass(frozen=True)
class Person:
    """A person: all that stays the same from photo to photo.

    Args:
        shape: Lengths by the names in `SHAPE`.
        skin: Color, RGB from 0 to 1, `(3,)`.
        hair: Color.
        iris: Color.
        lips: Color.
        moles: `(N, 4)`, u, v, radius and strength of marks on the skin.
        unevenness: `(24, 24)` values around 0, the skin's light and dark patches over u and v of -1 to 1.
    """

    shape: dict[str, float]
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    moles: np.ndarray
    unevenness: np.ndarray


@dataclass(frozen=True)
class Photo:
    """The circumstances of a photo: all that differs from one to the next.

    Args:
        shift: Of the face's middle in pixels, right and down.
        scale: Half the face's height in pixels.
        tilt: Angle of the head in radians.
        turn: How far the features are moved sideways on the head.
        smile: How far the corners of the mouth are raised.
        opening: How far the mouth is open.
        light: Strength from left and from above, `(2,)`.
        warmth: Factors of the colors, `(3,)`.
        background: Colors of the upper and the lower edge, `(2, 3)`.
        clothes: Color.
    """

    shift: tuple[float, float]
    scale: float
    tilt: float
    turn: float
    smile: float
    opening: float
    light: np.ndarray
    warmth: np.ndarray
    background: np.ndarray
    clothes: np.ndarray


def draw_person(random: Generator) -> Person:
    """Make up a person."""
    shape = {name: mean + spread * float(np.clip(random.normal(), -2, 2)) for name, (mean, spread) in SHAPE.items()}
    shape |= {name: max(least, shape[name]) for name, least in LEAST.items()}
    first, second = random.integers(len(SKIN_TONES), size=2)
    share = random.random()
    skin = SKIN_TONES[first] * share + SKIN_TONES[second] * (1 - share)
    number = int(random.integers(4, 16))
    moles = np.stack(
        [
            random.uniform(-0.6, 0.6, number),
            random.uniform(-0.55, 0.8, number),
            random.uniform(0.02, 0.05, number),
            random.uniform(0.10, 0.45, number),
        ],
        axis=1,
    )
    unevenness = ndimage.gaussian_filter(random.normal(size=(24, 24)), 0.8) * random.uniform(0.03, 0.10)
    return Person(
        shape=shape,
        skin=np.clip(skin + random.normal(0, 0.02, 3), 0.1, 1),
        hair=np.clip(HAIR_COLORS[random.integers(len(HAIR_COLORS))] + random.normal(0, 0.03, 3), 0.03, 0.95),
        iris=IRIS_COLORS[random.integers(len(IRIS_COLORS))],
        lips=np.clip(skin * np.array([0.85, 0.55, 0.55]) + random.normal(0, 0.04, 3), 0.05, 1),
        moles=moles,
        unevenness=unevenness,
    )


def draw_photo(random: Generator) -> Photo:
    """Make up the circumstances of a photo, much as passport offices ask for."""
    return Photo(
        shift=(random.uniform(-2, 2), random.uniform(-2, 2) + 1),
        scale=random.uniform(22.5, 25.5),
        tilt=random.normal(0, 0.05),
        turn=random.normal(0, 0.04),
        smile=random.uniform(-0.02, 0.07),
        opening=max(0.0, random.normal(0, 0.02)),
        light=np.array([random.normal(0, 0.14), random.uniform(-0.05, 0.2)]),
        warmth=random.uniform(0.82, 1.05) * np.clip(1 + random.normal(0, 0.03, 3), 0.9, 1.1),
        background=np.clip(random.uniform(0.35, 0.95) + random.normal(0, 0.06, (2, 3)), 0.1, 1),
        clothes=random.uniform(0.1, 0.8, 3),
    )


def face_grid(photo: Photo) -> tuple[Field, Field]:
    """Return u and v of each pixel of the oversampled picture."""
    pixels = (np.arange(SIZE * OVERSAMPLING, dtype=np.float32) + 0.5) / OVERSAMPLING - SIZE / 2
    right, down = pixels[None, :] - photo.shift[0], pixels[:, None] - photo.shift[1]
    cosine, sine = math.cos(photo.tilt) / photo.scale, math.sin(photo.tilt) / photo.scale
    return right * cosine + down * sine, down * cosine - right * sine


def render_face(person: Person, photo: Photo) -> Field:
    """Return the light that reaches the camera, (2 * 64, 2 * 64, 3) from 0 to 1."""
    u, v = face_grid(photo)
    shape = person.shape
    picture = _background(photo, v)
    lay_over(picture, photo.clothes, _inside((np.abs(u) / 1.25) ** 2.5 + ((v - 1.95) / 0.75) ** 2))
    skin = _skin(person, u - photo.turn, v)
    hair_color = person.hair * (0.9 + 0.2 * _strands(u, v)[..., None])
    width = shape["width"]
    behind = _inside((u / (width + shape["hair_width"])) ** 2 + ((v + 0.30) / 0.86) ** 2)
    falls = (np.abs(u) < width + 0.6 * shape["hair_width"]) & (v > -0.3) & (v < shape["hair_length"])
    lay_over(picture, hair_color, np.maximum(behind, ndimage.uniform_filter(falls.astype(np.float32), 3)))
    lay_over(picture, skin * 0.82, _inside((u / 0.42) ** 4 + ((v - 0.95) / 0.45) ** 4))
    for side in (-1, 1):
        ear = ((u - side * (width + 0.3 * shape["ears"])) / shape["ears"]) ** 2 + ((v - 0.05) / 0.2) ** 2
        lay_over(picture, skin * 0.9, _inside(ear))
    head = head_mask(person, photo)
    lay_over(picture, skin, head)
    _draw_features(picture, person, photo, u - photo.turn, v)
    fringe = shape["hairline"] + 0.25 * (u - shape["hair_part"]) ** 2
    # beyond the head as well, or its soft edge would shine through as a line
    lay_over(picture, hair_color, np.maximum(head, behind) * _step(fringe - v))
    return np.clip(picture * (_light(photo, u, v) * photo.warmth.astype(np.float32)), 0, 1)


def head_mask(person: Person, photo: Photo) -> Field:
    """Return how much of each pixel is head, from 0 to 1."""
    u, v = face_grid(photo)
    narrowing = 1 - person.shape["jaw"] * np.clip(v, 0, 1) ** 1.5
    return _inside((np.abs(u) / (person.shape["width"] * narrowing)) ** 2.3 + np.abs(v) ** 2.3)


def mean_shape(first: Person, second: Person, share: float) -> Person:
    """Return the first person with lengths between both, `share` of the way to the second."""
    shape = {name: (1 - share) * first.shape[name] + share * second.shape[name] for name in SHAPE}
    return replace(first, shape=shape)


def _draw_features(picture: Field, person: Person, photo: Photo, u: Field, v: Field) -> None:
    """Draw eyes, nose and mouth into the picture."""
    shape = person.shape
    for side in (-1, 1):
        center = (side * shape["eye_distance"], shape["eye_height"])
        window = _window(u, v, center, 0.36)
        _draw_eye(picture[window], person, photo, side, u[window] - center[0], v[window] - center[1])
    nose = (0.0, shape["eye_height"] + shape["nose_length"])
    window = _window(u, v, nose, 0.5)
    _draw_nose(picture[window], person, u[window], v[window] - nose[1])
    mouth = (0.0, shape["mouth_height"])
    window = _window(u, v, mouth, 0.48)
    _draw_mouth(picture[window], person, photo, u[window], v[window] - mouth[1])


def _draw_eye(picture: Field, person: Person, photo: Photo, side: int, along: Field, across: Field) -> None:
    shape = person.shape
    lid = (along / shape["eye_width"]) ** 2 + (across / shape["eye_opening"]) ** 2
    lay_over(picture, person.skin * 0.62, _inside(lid / 1.6))
    opened = _inside(lid)
    lay_over(picture, np.array([0.95, 0.94, 0.92]), opened)
    iris = np.hypot(along - 0.3 * photo.turn, across) / (0.95 * shape["eye_opening"])
    lay_over(picture, person.iris, opened * _inside(iris**2))
    lay_over(picture, np.full(3, 0.03), opened * _inside((iris / 0.5) ** 2))
    brow_v = across + shape["brow_height"] + shape["brow_slant"] * side * along - 1.2 * along**2
    brow = (along / (1.35 * shape["eye_width"])) ** 4 + (brow_v / shape["brow_thickness"]) ** 2
    lay_over(picture, person.hair * 0.8, 0.85 * _inside(brow))


def _draw_nose(picture: Field, person: Person, u: Field, v: Field) -> None:
    width, length = person.shape["nose_width"], person.shape["nose_length"]
    bridge = np.exp(-((u / (0.6 * width)) ** 2)) * _step(-v) * _step(v + length)
    shadow = np.exp(-(((u - 0.8 * width) / 0.05) ** 2)) * _step(-v) * _step(v + length - 0.1)
    picture *= (1 + 0.07 * bridge - 0.10 * shadow)[..., None]
    for side in (-1, 1):
        nostril = ((u - side * 0.55 * width) / 0.045) ** 2 + (v / 0.028) ** 2
        lay_over(picture, person.skin * 0.35, 0.8 * _inside(nostril))


def _draw_mouth(picture: Field, person: Person, photo: Photo, u: Field, v: Field) -> None:
    width, thickness = person.shape["mouth_width"], person.shape["lip_thickness"]
    bent = v + photo.smile * (u / width) ** 2
    lips = (u / width) ** 2 + (bent / (thickness + photo.opening)) ** 2
    lay_over(picture, person.lips, 0.85 * _inside(lips))
    gap = (u / (0.92 * width)) ** 2 + (bent / (0.016 + photo.opening)) ** 2
    lay_over(picture, person.lips * 0.3, _inside(gap))


def _window(u: Field, v: Field, center: tuple[float, float], reach: float) -> tuple[slice, slice]:
    """Return the rows and columns of what is nearer to a point than `reach`, for most of a picture is not."""
    near = (np.abs(u - center[0]) < reach) & (np.abs(v - center[1]) < reach)
    rows, columns = (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _skin(person: Person, u: Field, v: Field) -> Field:
    """Return the skin's color everywhere, (..., 3): it is the person's own, moles and all."""
    last = len(person.unevenness) - 1
    places = np.stack(np.broadcast_arrays((v + 1) / 2 * last, (u + 1) / 2 * last))
    tone = 1 + ndimage.map_coordinates(person.unevenness, places, order=1, mode="nearest")
    for mole_u, mole_v, radius, strength in person.moles.tolist():
        window = _window(u, v, (mole_u, mole_v), 3 * radius)
        distance = (u[window] - mole_u) ** 2 + (v[window] - mole_v) ** 2
        tone[window] *= 1 - strength * np.exp(-distance / radius**2)
    blush = np.exp(-((np.abs(u) - 0.4) ** 2 + (v - 0.25) ** 2) / 0.04)[..., None] * np.array([0.03, -0.02, -0.02])
    return (person.skin * tone[..., None] + blush).astype(np.float32)


def _strands(u: Field, v: Field) -> Field:
    return np.asarray(0.5 + 0.5 * np.sin(40 * u + 6 * np.sin(3 * v) + 9 * u * v))


def _background(photo: Photo, v: Field) -> Field:
    share = np.clip(v / 3 + 0.5, 0, 1)[..., None]
    return (photo.background[0] * (1 - share) + photo.background[1] * share).astype(np.float32)


def _light(photo: Photo, u: Field, v: Field) -> Field:
    """Return a factor around 1, (..., 1): light from a side, and a head that is round."""
    inside = np.clip(1 - u**2 - v**2, 0, 1)
    from_left, from_above = photo.light.tolist()
    return np.asarray(1 - from_left * np.clip(u, -1, 1) - from_above * np.clip(v, -1, 1) + 0.08 * inside)[..., None]


def _inside(value: Field) -> Field:
    """Return how far a value is below 1, as a soft edge from 0 to 1."""
    return np.asarray(1 / (1 + np.exp(np.clip(16 * (value - 1), -30, 30))))


def _step(value: Field) -> Field:
    """Return 1 where a value is above 0, with a soft edge."""
    return np.asarray(1 / (1 + np.exp(np.clip(-40 * value, -30, 30))))
