"""The quickstart's steel strips, drawn on the spot, and plain shapes to be pre-trained on."""

import csv
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from datamodules.common.checks import check_at_least
from datamodules.defects.layouts import SEVERSTAL_CLASSES
from datamodules.defects.run_length import encode_runs
from datamodules.defects.severstal import Severstal
from datamodules.generated.data_module import GeneratedData
from datamodules.generated.steel.drawing import draw_steel
from datamodules.generated.steel.shapes import SHAPE_CLASSES, draw_shapes
from eomt.errors import UserError

DRAWING = {"steel": draw_steel, "shapes": draw_shapes}
CLASSES = {"steel": SEVERSTAL_CLASSES, "shapes": SHAPE_CLASSES}
# every so many images, one is a copy of the image before it, as some of Severstal's are
COPY_EVERY = 25
JPEG_QUALITY = 92
# for `predict`: boxes of defects, as a person would draw them, for the first images that show some
PROMPTS = "prompts.csv"
PROMPTED_IMAGES = 20
# where drawing begins to leave no room for an object
LEAST_SIZE = (32, 64)


class SteelStrips(Severstal, GeneratedData):
    """Generated strips of steel with four classes of defects, or plain shapes in four classes.

    `prepare_data` writes them once, as `train.csv` and `train_images`, Kaggle's layout of Severstal: pits, upright
    lines, scratches and patches are `defect_1` to `defect_4`. A fifth of the strips shows no defect, and some images
    are exact copies. `prompts.csv` holds boxes of the defects of the first strips, for `--data.prompts`. Each domain
    wants a folder of its own.

    Args:
        path: Folder for the files.
        domain: "steel", or "shapes": ellipses, bars, polygons and blobs on smooth colors, for pre-training.
        num_images: Images in all.
        strip_size: Height and width of the images in pixels.
        seed: Seed of the images.
        batch_size: Training samples per step and process.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        val_fraction: Share of validation.
        test_fraction: Share of test.
        **common: Fields of `Severstal`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "steel strips"
    record_file = "steel_strips.json"

    def __init__(
        self,
        path: Path = Path("data/steel_strips"),
        domain: Literal["steel", "shapes"] = "steel",
        num_images: int = 300,
        strip_size: tuple[int, int] = (64, 384),
        seed: int = 0,
        batch_size: int = 4,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        **common: Any,
    ) -> None:
        super().__init__(
            path,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            class_names=list(CLASSES[domain]),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=0,
            splits=None,
            **common,
        )
        check_at_least(num_images=(num_images, 1), seed=(seed, 0))
        if strip_size[0] < LEAST_SIZE[0] or strip_size[1] < LEAST_SIZE[1]:
            raise UserError(f"strip_size: {list(strip_size)}; must be at least {list(LEAST_SIZE)}")
        self.domain = domain
        self.num_images = num_images
        self.strip_size = (strip_size[0], strip_size[1])
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {
            "domain": self.domain,
            "num_images": self.num_images,
            "strip_size": list(self.strip_size),
            "seed": self.seed,
        }

    def write(self, folder: Path) -> None:
        """Draw the images into a new folder, and write the table of their defects."""
        (folder / "train_images").mkdir()
        boxes: list[list[Any]] = []
        with (folder / "train.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["ImageId", "ClassId", "EncodedPixels"])
            for number in range(self.num_images):
                name = f"strip_{number:05d}.jpg"
                is_copy = number % COPY_EVERY == COPY_EVERY - 1
                picture, masks = self._draw(number - 1 if is_copy else number)
                (folder / "train_images" / name).write_bytes(picture)
                for class_id, mask in sorted(masks.items()):
                    table.writerow([name, class_id + 1, encode_runs(mask)])
                if masks and len({row[0] for row in boxes}) < PROMPTED_IMAGES:
                    boxes += [[name, *box_of(mask), self.class_names[class_id]] for class_id, mask in masks.items()]
        with (folder / PROMPTS).open("w", newline="") as file:
            csv.writer(file).writerows([["file", "x0", "y0", "x1", "y1", "label"], *boxes])

    def _draw(self, number: int) -> tuple[bytes, dict[int, np.ndarray]]:
        """Return an image as JPEG, and its masks by class id."""
        canvas = DRAWING[self.domain](np.random.default_rng([self.seed, number]), self.strip_size)
        file = io.BytesIO()
        Image.fromarray(canvas.image()).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue(), canvas.masks


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the outermost columns and rows of a mask, bool `(H, W)`: x0, y0, x1, y1."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
