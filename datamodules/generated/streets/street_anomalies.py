"""The quickstart's street scenes with unknown objects, drawn on the spot in the layouts of the real data sets."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.class_maps import CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES
from datamodules.common.pairs import Pair
from datamodules.common.zip_members import ImageFile
from datamodules.generated.streets.canvas import Street
from datamodules.generated.streets.data_module import GeneratedStreets
from datamodules.generated.streets.drawing import CLASS_NAMES, draw_street
from datamodules.generated.streets.lighting import light_by_night
from datamodules.generated.streets.obstacles import UNKNOWN, add_obstacles
from datamodules.segmentation.cityscapes_files import find_cityscapes
from datamodules.segmentation.labels import LabelTable
from datamodules.segmentation.road_anomaly_dataset import AnomalyDataset, find_labels
from datamodules.segmentation.road_anomaly_sets import ANOMALY, AnomalySet, find_anomaly_sets
from eomt.utils.labels import IGNORE_INDEX

ANOMALY_FOLDER = "Validation_Dataset"
TEST_SET, VAL_SET = "StreetObstacles", "StreetObstaclesVal"
UNLABELED = 0
LABEL_ID_OF_NAME = {
    CITYSCAPES_NAMES[train_id]: label for label, train_id in CITYSCAPES_LABEL_IDS.items() if train_id != IGNORE_INDEX
}
LABEL_IDS = [LABEL_ID_OF_NAME[name] for name in CLASS_NAMES]


class StreetAnomalies(GeneratedStreets):
    """Generated streets of 96 x 160 pixels (height x width) by night: seven known classes, and unknown objects in test.

    `prepare_data` writes the images to train and to validate on as Cityscapes does (leftImg8bit, and gtFine with
    labelIds), and those to test on as `RoadAnomaly` reads them (Validation_Dataset/StreetObstacles). These show
    animals, crates, balls, cones and sofas, which no other image does. A smaller set of their kind,
    StreetObstaclesVal, is there to choose a temperature on with `RoadAnomaly`. Lamps and the own car belong to no class
    and are ignored.

    Batches to train and to validate on are those of `SegmentationDataModule`, to test on those of `RoadAnomaly`.

    Args:
        path: Folder for the files.
        num_test: Images of test; half as many are in StreetObstaclesVal.
        **common: Fields of `GeneratedStreets`.

    Raises:
        UserError: A field has an impossible value.
    """

    kind = "street anomalies"
    record_file = "street_anomalies.json"
    least_test = 2

    def __init__(self, path: Path = Path("data/street_anomalies"), num_test: int = 40, **common: Any) -> None:
        super().__init__(path, num_test=num_test, **common)

    def label_table(self) -> LabelTable:
        """Return the class ids of Cityscapes' labels."""
        class_map = {UNLABELED: IGNORE_INDEX} | {label: class_id for class_id, label in enumerate(LABEL_IDS)}
        return LabelTable(self.num_classes, class_map, [IGNORE_INDEX])

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train" and "val"; those of test are no pairs of images and classes.

        Raises:
            UserError: Files are missing.
        """
        return find_cityscapes(self.path, "labelIds").pairs

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used.
        """
        super().setup(stage)
        if stage in ("test", None):
            test_set = self._test_set()
            find_labels(test_set.samples, {TEST_SET: test_set})
            self.counts["test"] = {"images": len(test_set.samples)}

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images with unknown objects, in order."""
        test_set = self._test_set()
        return self.evaluation_loader(AnomalyDataset(test_set.samples, {TEST_SET: test_set}))

    def test_sets(self) -> list[str]:
        """Return the name of the set that is tested."""
        return [self._test_set().name]

    def _files_to_predict(self) -> list[tuple[str, ImageFile]]:
        if self.predict_path is not None:
            return super()._files_to_predict()
        return [(sample.name, sample.image) for sample in self._test_set().samples]

    def _test_set(self) -> AnomalySet:
        return find_anomaly_sets(self.path / ANOMALY_FOLDER)[TEST_SET]

    def write(self, folder: Path) -> None:
        """Draw the streets of all sets into a new folder."""
        for index, split in enumerate(("train", "val")):
            for number in range(self.num_images[split]):
                self._write_known(folder, split, number, np.random.default_rng([self.seed, index, number]))
        for index, (name, count) in enumerate(
            ((TEST_SET, self.num_images["test"]), (VAL_SET, self.num_images["test"] // 2)), 2
        ):
            for number in range(count):
                file = folder / ANOMALY_FOLDER / name
                _write_unknown(file, f"{number:04d}.png", np.random.default_rng([self.seed, index, number]))

    def _write_known(self, folder: Path, split: str, number: int, random: Generator) -> None:
        scene = draw_street(random)
        stem = f"{split}/street/street_{number:06d}_000019"
        _save(light_by_night(scene, random), folder / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        _save(_mapped(scene, LABEL_IDS, UNLABELED), folder / "gtFine" / f"{stem}_gtFine_labelIds.png")


def _write_unknown(folder: Path, name: str, random: Generator) -> None:
    scene = add_obstacles(draw_street(random), random)
    _save(light_by_night(scene, random), folder / "images" / name)
    _save(_mapped(scene, [0] * UNKNOWN + [ANOMALY], IGNORE_INDEX), folder / "labels_masks" / name)


def _mapped(scene: Street, labels: list[int], no_class: int) -> np.ndarray:
    """Return the scene's classes as labels, (H, W) uint8: `labels` by class id, and that of pixels without a class."""
    table = np.full(IGNORE_INDEX + 1, no_class, dtype=np.uint8)
    table[: len(labels)] = labels
    return table[scene.class_ids()]


def _save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=1)
