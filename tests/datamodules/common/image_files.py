"""Small image and mask files for the tests of this folder."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16


def gray_of(label: int) -> int:
    """Return the gray value that images of this file carry wherever their mask has `label`."""
    return 40 + 60 * label


def make_mask(classes: int = 3, seed: int = 0) -> np.ndarray:
    """Return (12, 16) labels in which every class stands in 4 x 4 blocks."""
    blocks = np.random.default_rng(seed).permutation(np.arange(12) % classes).reshape(3, 4)
    return np.kron(blocks, np.ones((4, 4), dtype=int)).astype(np.uint8)


def write_pair(folder: Path, name: str, mask: np.ndarray) -> None:
    """Write `images/name`, whose gray values tell the labels, and its mask."""
    image_file, mask_file = folder / "images" / name, (folder / "masks" / name).with_suffix(".png")
    for file in (image_file, mask_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gray_of(mask.astype(int)).astype(np.uint8)).convert("RGB").save(image_file)
    Image.fromarray(mask).save(mask_file)


def write_split(folder: Path, number: int = 4, classes: int = 3) -> Path:
    """Write pairs 0.png, 1.png, ... below `folder`."""
    for index in range(number):
        write_pair(folder, f"{index}.png", make_mask(classes, index))
    return folder


def write_given_splits(folder: Path, number: int = 4, classes: int = 3) -> Path:
    """Write `train`, `val` and `test`."""
    for split in ("train", "val", "test"):
        write_split(folder / split, number, classes)
    return folder
