"""The quickstart's street scenes, drawn on the spot: a day to be pre-trained on and a night to adapt to."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from datamodules.common.pairs import Pair, find_pairs
from datamodules.common.splits import SPLITS
from datamodules.generated.streets.data_module import GeneratedStreets
from datamodules.generated.streets.drawing import draw_street
from datamodules.generated.streets.lighting import light_by_day, light_by_night
from datamodules.segmentation.labels import LabelTable
from eomt.utils.labels import IGNORE_INDEX

PALETTE = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (107, 142, 35), (70, 130, 180), (0, 0, 142), (220, 20, 60)]


class StreetScenes(GeneratedStreets):
    """Generated streets of 96 x 160 pixels (height x width) with seven classes; 255 marks lamps and the own car.

    `prepare_data` writes them as ordinary PNG files, once, in the layout of `ImageMaskFolder`. The same seed gives
    the same streets in both domains, each domain wants a folder of its own.

    Args:
        path: Folder for the files.
        domain: Light in which the streets are seen.
        **common: Fields of `GeneratedStreets`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "street scenes"
    record_file = "street_scenes.json"

    def __init__(
        self,
        path: Path = Path("data/street_scenes"),
        domain: Literal["day", "night"] = "night",
        **common: Any,
    ) -> None:
        super().__init__(path, **common)
        self.domain = domain

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {"domain": self.domain, **super().settings}

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train", "val" and "test".

        Raises:
            UserError: Files are missing.
        """
        return {
            split: find_pairs(self.path / split / "images", self.path / split / "masks", None, None)
            if self.num_images[split]
            else []
            for split in SPLITS
        }

    def label_table(self) -> LabelTable:
        """Return class ids as they are."""
        return LabelTable(self.num_classes, None, [IGNORE_INDEX])

    def write(self, folder: Path) -> None:
        """Draw the streets into a new folder."""
        for split in SPLITS:
            self._write_split(folder / split, split)

    def _write_split(self, folder: Path, split: str) -> None:
        if not self.num_images[split]:
            return
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        light = light_by_day if self.domain == "day" else light_by_night
        for number in range(self.num_images[split]):
            key = [self.seed, SPLITS.index(split), number]
            # a stream of its own for the light, so that both domains show the same streets
            scene = draw_street(np.random.default_rng([*key, 0]))
            image = light(scene, np.random.default_rng([*key, 1]))
            mask = Image.fromarray(scene.class_ids())
            # with fewer than 256 colors Pillow stores fewer bits, and 255 would not survive
            mask.putpalette([channel for color in PALETTE for channel in color] + [0, 0, 0] * (256 - len(PALETTE)))
            name = f"street_{number:05d}.png"
            Image.fromarray(image).save(folder / "images" / name, compress_level=1)
            mask.save(folder / "masks" / name)
