"""Small face files for the tests of this folder: every file has other pixels, told by its number."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.faces.morph_faces import MorphFaces

SIZE = 24


def write_face(file: Path, number: int, size: tuple[int, int] = (SIZE, SIZE), mode: str = "RGB") -> Path:
    """Write noise of (height, width) that only this number gives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)
    return file


def write_people(folder: Path, people: range, photos: int = 2, attacks: tuple[str, ...] = ("blend", "warp")) -> Path:
    """Write photos of each person, and for each attack a morph of each person and the next one in the range."""
    for person in people:
        for photo in range(photos):
            write_face(folder / "bonafide" / f"id{person:03d}_{photo}.png", 100 * person + photo)
        other = people[(people.index(person) + 1) % len(people)]
        for index, attack in enumerate(attacks):
            file = folder / "morph" / attack / f"id{person:03d}_id{other:03d}.png"
            write_face(file, 100 * person + 50 + index)
    return folder


def write_splits(folder: Path, people: int = 4) -> Path:
    """Write `train`, `val` and `test` with people of their own."""
    for index, split in enumerate(("train", "val", "test")):
        write_people(folder / split, range(10 * index, 10 * index + people))
    return folder


def morph_faces(path: Path, **arguments: Any) -> MorphFaces:
    """Return a data module of `path` at 16 x 16 pixels."""
    settings = {"batch_size": 2, "img_size": 16, "num_workers": 0, "identity_pattern": r"id\d+"}
    return MorphFaces(str(path), **(settings | arguments))
