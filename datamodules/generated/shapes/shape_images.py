"""The quickstart's images of one shape each, drawn on the spot."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.classification.image_folder import ImageFolder
from datamodules.common.checks import check_at_least
from datamodules.common.splits import SPLITS
from datamodules.common.threads import map_in_threads
from datamodules.generated.data_module import GeneratedData
from datamodules.generated.shapes.scenes import COLORS, RADII, SHAPES, SIZE, Look, ShapeScene, Thing, render_shapes

# streams of random numbers, apart from one another
THINGS, PICTURES = 10, 11
# pixels that stay free at the border
GAP = 2
MOST_TURNED = 20.0


class ShapeImages(ImageFolder, GeneratedData):
    """Generated images of 56 x 56 pixels with one colored shape each, which is their class.

    `prepare_data` writes them as PNG files, once: `train`, `val` and `test`, each with a folder for each shape. Color,
    place, size and angle say nothing of the shape.

    Args:
        path: Folder for the files.
        look: plain, on a bright ground; or night, outlines in the dark.
        num_train: Images of each shape to train on.
        num_val: Images of each shape of validation.
        num_test: Images of each shape of test.
        seed: Seed of the images.
        num_workers: Processes that read files.
        **common: Fields of `ImageFolder`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "shapes"
    record_file = "generated_shapes.json"

    def __init__(
        self,
        path: Path = Path("data/generated_shapes"),
        look: Look = "night",
        num_train: int = 40,
        num_val: int = 40,
        num_test: int = 40,
        seed: int = 0,
        num_workers: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(path, num_workers=num_workers, **common)
        check_at_least(num_train=(num_train, 1), num_val=(num_val, 1), num_test=(num_test, 0), seed=(seed, 0))
        self.look: Look = look
        self.num_train, self.num_val, self.num_test, self.seed = num_train, num_val, num_test, seed

    @property
    def class_names(self) -> list[str]:
        """The shapes, sorted; no file is read."""
        return sorted(SHAPES)

    def is_multi_label(self) -> bool:
        """Return false."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        names = ("look", "num_train", "num_val", "num_test", "seed")
        return {name: getattr(self, name) for name in names}

    def write(self, folder: Path) -> None:
        """Draw the images into a new folder."""

        def draw(place: tuple[int, str, int, int]) -> None:
            part, split, shape, number = place
            key = [self.seed, part, shape, number]
            thing = _make_thing(SHAPES[shape], np.random.default_rng([THINGS, *key]))
            pixels = render_shapes(ShapeScene((thing,), ""), self.look, np.random.default_rng([PICTURES, *key]))
            file = folder / split / SHAPES[shape] / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, compress_level=1)

        places = [
            (part, split, shape, number)
            for part, split in enumerate(SPLITS)
            for shape in range(len(SHAPES))
            for number in range(getattr(self, f"num_{split}"))
        ]
        map_in_threads(draw, places, "Drawing shapes")


def _make_thing(shape: str, random: np.random.Generator) -> Thing:
    radius = random.uniform(*RADII)
    furthest = SIZE / 2 - GAP - radius
    row, column = SIZE / 2 + random.uniform(-furthest, furthest, 2)
    angle = math.radians(random.uniform(-MOST_TURNED, MOST_TURNED))
    return Thing(shape, COLORS[random.integers(len(COLORS))], float(row), float(column), radius, angle)
