"""The quickstart's street scenes, drawn on the spot: a day to be pre-trained on and a night to adapt to."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datamodules.common.splits import SPLITS
from datamodules.generated.folder import generate_once
from datamodules.generated.streets.drawing import CLASS_NAMES, draw_street
from datamodules.generated.streets.lighting import light_by_day, light_by_night
from datamodules.segmentation.image_mask_folder import ImageMaskFolder
from eomt.errors import UserError

RECORD_FILE = "street_scenes.json"
# raised whenever the same settings would draw other pictures
GENERATOR_VERSION = 1
PALETTE = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (107, 142, 35), (70, 130, 180), (0, 0, 142), (220, 20, 60)]


class StreetScenes(ImageMaskFolder):
    """Generated streets of 96 x 160 pixels (height x width) with seven classes; 255 marks lamps and the own car.

    `prepare_data` writes them as ordinary PNG files, once, in the layout of `ImageMaskFolder`. The same seed gives
    the same streets in both domains, each domain wants a folder of its own.

    Args:
        path: Folder for the files.
        domain: Light in which the streets are seen.
        num_train: Images to train on.
        num_val: Images of validation.
        num_test: Images of test.
        seed: Seed of the streets.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        scale_range: Smallest and largest scale of training images, relative to the one that just covers the crop.
        flip: Whether training images are mirrored at random.
        color_jitter: Whether training images vary in brightness, contrast and saturation.
        predict_path: Folder of images, or one image, to predict; null for the images of test, or else val.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: str = "data/street_scenes",
        domain: Literal["day", "night"] = "night",
        num_train: int = 100,
        num_val: int = 40,
        num_test: int = 40,
        seed: int = 0,
        batch_size: int = 4,
        crop_size: tuple[int, int] | None = None,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: bool = True,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(
            path=path,
            batch_size=batch_size,
            crop_size=crop_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            class_names=list(CLASS_NAMES),
            scale_range=scale_range,
            flip=flip,
            color_jitter=color_jitter,
            predict_path=predict_path,
        )
        for field, value, least in (
            ("num_train", num_train, 1),
            ("num_val", num_val, 1),
            ("num_test", num_test, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UserError(f"{field}: {value}: must be at least {least}")
        self.domain = domain
        self.num_images = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    def prepare_data(self) -> None:
        """Write the images and masks unless they are there; the folder appears whole or not at all.

        Raises:
            UserError: The folder holds something else, or scenes of other settings.
        """
        record = {"version": GENERATOR_VERSION, "domain": self.domain, **self.num_images, "seed": self.seed}
        generate_once(self.path, RECORD_FILE, record, "street scenes", self._write)

    def _write(self, folder: Path) -> None:
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
            # with fewer than 256 colours Pillow stores fewer bits, and 255 would not survive
            mask.putpalette([channel for color in PALETTE for channel in color] + [0, 0, 0] * (256 - len(PALETTE)))
            name = f"street_{number:05d}.png"
            Image.fromarray(image).save(folder / "images" / name, compress_level=1)
            mask.save(folder / "masks" / name)
