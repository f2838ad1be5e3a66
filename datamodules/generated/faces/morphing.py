"""Morphs of two drawn faces, and the camera that takes them and everybody else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from datamodules.generated.faces.drawing import (
    OVERSAMPLING,
    SIZE,
    Field,
    Person,
    Photo,
    draw_photo,
    face_grid,
    mean_shape,
    render_face,
)

# shares of the second face
SHARE = (0.4, 0.6)
# pixels by which a blended face is bent to lie on the other
LARGEST_BEND = 1.2


def blend(first: Person, second: Person, photo: Photo, random: Generator) -> Field:
    """Lay two pictures over one another: eyes and mouths meet as well as a slight bend brings them together."""
    other = replace(
        photo,
        shift=(photo.shift[0] + random.normal(0, 1.2), photo.shift[1] + random.normal(0, 1.2)),
        tilt=photo.tilt + random.normal(0, 0.02),
        smile=photo.smile + random.normal(0, 0.02),
        turn=photo.turn + random.normal(0, 0.02),
    )
    pixels = LARGEST_BEND * OVERSAMPLING
    shape = (SIZE * OVERSAMPLING,) * 2
    bend = [ndimage.gaussian_filter(random.normal(size=shape), 16) * 60 * pixels for _ in range(2)]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([rows + np.clip(bend[0], -pixels, pixels), columns + np.clip(bend[1], -pixels, pixels)])
    picture = render_face(second, other)
    bent = np.stack(
        [ndimage.map_coordinates(picture[..., c], places, order=1, mode="nearest") for c in range(3)], axis=-1
    )
    share = random.uniform(*SHARE)
    return np.asarray((1 - share) * render_face(first, photo) + share * bent)


def warp(first: Person, second: Person, photo: Photo, random: Generator) -> Field:
    """Bring both faces to the mean of their shapes, mix their skins, and set the result into the first one's head.

    Nothing is seen double; what is left is both skins at half their strength, mixed light, and a seam around the
    face.
    """
    share = random.uniform(*SHARE)
    between = mean_shape(first, second, share)
    other = replace(photo, light=draw_photo(random).light)
    mixed = (1 - share) * render_face(between, photo) + share * render_face(replace(second, shape=between.shape), other)
    u, v = face_grid(photo)
    radius = np.sqrt((u / (0.82 * between.shape["width"])) ** 2 + ((v - 0.1) / 0.72) ** 2)
    seam = np.clip((1 - radius) / random.uniform(0.03, 0.08) + 0.5, 0, 1)[..., None]
    around = render_face(between, photo)
    return np.asarray(mixed * seam + around * (1 - seam))


ATTACKS: dict[str, Callable[[Person, Person, Photo, Generator], Field]] = {"blend": blend, "warp": warp}


def develop(light: Field, random: Generator) -> Image.Image:
    """Take the picture: lens, sensor and sharpening, of random strength and alike for photos and morphs.

    Args:
        light: (2 * 64, 2 * 64, 3) from 0 to 1.
        random: Source of all that is random.

    Returns:
        An RGB picture of 64 x 64 pixels.
    """
    picture = light.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING, 3).mean(axis=(1, 3))
    sigma = random.uniform(0.2, 0.6)
    picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0))
    amount = random.uniform(0.0, 1.0)
    picture = picture + amount * (picture - ndimage.gaussian_filter(picture, (1.0, 1.0, 0)))
    grain = random.normal(size=picture.shape) * random.uniform(0.003, 0.012)
    return Image.fromarray((np.clip(picture + grain, 0, 1) * 255).round().astype(np.uint8))
