"""The quickstart's cells, drawn on the spot: gray ones to be pre-trained on, stained ones to adapt to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from datamodules.common.checks import check_at_least
from datamodules.common.splits import SPLITS
from datamodules.generated.cells.drawing import CLASS_NAMES, SIZE, Cell, draw_cells
from datamodules.generated.cells.microscopes import MICROSCOPES
from datamodules.generated.data_module import GeneratedData
from datamodules.objects.coco_instances import CocoInstances
from eomt.results.coco import annotation


class CellScenes(CocoInstances, GeneratedData):
    """Generated images of 128 x 128 pixels with cells of three classes, round, spindle and budding, that overlap.

    `prepare_data` writes them once, as PNG files in `<split>` and `annotations/instances_<split>.json`, the layout of
    COCO: each cell has a mask of its own, which goes on below a cell that lies over it. The same seed gives the same
    cells in both domains, each domain wants a folder of its own.

    Args:
        path: Folder for the files.
        domain: "stain", cells with dark nuclei between fibers, dirt and bubbles; or "plain", gray cells on a clean
            ground, for pre-training.
        num_train: Images to train on.
        num_val: Images of validation.
        num_test: Images of test.
        seed: Seed of the cells.
        batch_size: Training samples per step and process.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        **common: Fields of `CocoInstances`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "cells"
    record_file = "cell_scenes.json"

    def __init__(
        self,
        path: Path = Path("data/cell_scenes"),
        domain: Literal["stain", "plain"] = "stain",
        num_train: int = 100,
        num_val: int = 40,
        num_test: int = 40,
        seed: int = 0,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(
            path, batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, **common
        )
        check_at_least(num_train=(num_train, 1), num_val=(num_val, 1), num_test=(num_test, 0), seed=(seed, 0))
        self.domain = domain
        self.num_images = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {"domain": self.domain, **self.num_images, "seed": self.seed}

    def find_class_names(self) -> list[str]:
        """Return the names of the classes, by class id, also before there are files."""
        return list(CLASS_NAMES)

    def write(self, folder: Path) -> None:
        """Draw the cells into a new folder, and write what they are."""
        (folder / "annotations").mkdir()
        for split in SPLITS:
            if self.num_images[split]:
                document = json.dumps(self._write_split(folder / split, split))
                (folder / "annotations" / f"instances_{split}.json").write_text(document + "\n")

    def _write_split(self, folder: Path, split: str) -> dict[str, Any]:
        """Write the images of a split; return its document."""
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(self.num_images[split]):
            key = [self.seed, SPLITS.index(split), number]
            # a stream of its own for the light, so that both domains show the same cells
            cells = draw_cells(np.random.default_rng([*key, 0]))
            picture = MICROSCOPES[self.domain](cells, np.random.default_rng([*key, 1]))
            name = f"cells_{number:05d}.png"
            Image.fromarray(picture).save(folder / name, compress_level=1)
            images.append({"id": number + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            annotations += annotations_of(cells, number + 1, len(annotations) + 1)
        categories = [{"id": class_id + 1, "name": name} for class_id, name in enumerate(CLASS_NAMES)]
        return {"images": images, "annotations": annotations, "categories": categories}


def annotations_of(cells: Sequence[Cell], image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Return cells as annotations of COCO, with ids that count on from a first one."""
    found = []
    for number, cell in enumerate(cells, start=first_id):
        mask = annotation(cell.mask, CLASS_NAMES[cell.class_id])
        del mask["category"]
        found.append({"id": number, "image_id": image_id, "category_id": cell.class_id + 1, **mask})
    return found
