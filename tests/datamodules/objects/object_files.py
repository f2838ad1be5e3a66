"""Images with objects that lie in memory, and a data module of them, for the tests of this folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.data_module import ObjectDataModule

NAMES = ["disc", "bar", "sky"]
HEIGHT, WIDTH = 24, 40


@dataclass(frozen=True)
class Known:
    """An annotation that is drawn by its number."""

    number: int

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        return make_objects(self.number, size)


def make_objects(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Objects:
    """Return overlapping objects, none in every fourth image: of three classes, one in two pieces, one a crowd."""
    random = np.random.default_rng(number)
    masks = []
    for _ in range(0 if number % 4 == 3 else 5):
        top, left = random.integers(0, size[0] - 6), random.integers(0, size[1] - 8)
        mask = np.zeros(size, dtype=bool)
        mask[top : top + random.integers(2, 7), left : left + random.integers(2, 9)] = True
        masks.append(mask)
    if masks:
        masks[2][:, :2] = True
    return Objects.from_masks(
        size, masks, [0, 1, 0, 2, 2][: len(masks)], [False, False, False, False, True][: len(masks)]
    )


def image_of(number: int) -> np.ndarray:
    """Return gray values that tell the object on top: 40 for each number, which counts from 1, and 20."""
    objects = make_objects(number)
    numbers = np.zeros(objects.size, dtype=np.int64)
    for index in sorted(range(len(objects)), key=lambda index: -objects.areas[index]):
        numbers[objects.masks[index]] = index + 1
    return (20 + 40 * numbers).astype(np.uint8)


def write_annotated(folder: Path, numbers: range) -> list[AnnotatedImage]:
    """Write images, and return them with their annotations."""
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.repeat(image_of(number)[..., None], 3, axis=2)
        # no two images are copies
        pixels[0, 0] = number
        Image.fromarray(pixels).save(folder / f"{number}.png")
        classes = frozenset(make_objects(number).class_ids.tolist())
        found.append(AnnotatedImage(f"{number}.png", folder / f"{number}.png", classes, Known(number)))
    return found


class KnownObjects(ObjectDataModule):
    """12 images, split by files or by a seed."""

    def __init__(self, path: Path, is_split: bool = True, **arguments: Any) -> None:
        size = "img_size" if arguments.get("target") == "prompted" else "crop_size"
        super().__init__(path, **({size: (HEIGHT, WIDTH), "num_workers": 0, "batch_size": 2} | arguments))
        self.is_split = is_split

    def find_class_names(self) -> list[str]:
        return NAMES

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        images = write_annotated(self.path, range(12))
        return {"train": images[:8], "val": images[8:]} if self.is_split else {"all": images}
