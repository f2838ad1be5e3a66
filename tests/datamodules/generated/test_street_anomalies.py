from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.generated.streets.drawing import CAR, CLASS_NAMES, PERSON, draw_street
from datamodules.generated.streets.obstacles import UNKNOWN, add_obstacles
from datamodules.generated.streets.street_anomalies import StreetAnomalies
from datamodules.segmentation.cityscapes import Cityscapes
from datamodules.segmentation.road_anomaly import RoadAnomaly
from eomt.errors import UserError
from eomt.utils.labels import IGNORE_INDEX

SIZES = {"num_train": 2, "num_val": 2, "num_test": 4}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets") / "drawn"
    streets(folder).prepare_data()
    return folder


def streets(path: Path, **arguments: Any) -> StreetAnomalies:
    return StreetAnomalies(str(path), **(SIZES | {"batch_size": 2, "crop_size": (96, 160)} | arguments))


def test_it_trains_on_known_classes_and_tests_on_anomalies(path: Path) -> None:
    data = streets(path)
    data.setup("fit")
    data.setup("test")
    (batch,) = data.train_dataloader()
    assert set(batch["mask"].unique().tolist()) <= {*range(7), 255}
    (test,) = data.test_dataloader()
    assert (test["image"].shape, test["anomaly"].shape) == ((4, 3, 96, 160), (4, 96, 160))
    assert (test["anomaly"] == 1).flatten(1).any(1).all()
    assert test["dataset"] == ["StreetObstacles"] * 4
    assert (data.num_classes, data.class_names) == (7, CLASS_NAMES)
    assert data.counts["test"] == {"images": 4}
    assert [name for batch in data.predict_dataloader() for name in batch["name"]] == test["name"]


def test_the_real_data_modules_read_the_same_files(path: Path) -> None:
    own = streets(path, eval_batch_size=2)
    (batch,) = own.val_dataloader()
    real = Cityscapes(str(path), eval_batch_size=2, num_workers=0)
    (other,) = real.val_dataloader()
    assert torch.equal(batch["image"], other["image"])
    for class_id, name in enumerate(own.class_names):
        assert torch.equal(batch["mask"] == class_id, other["mask"] == real.class_names.index(name))
    anomalies = RoadAnomaly(str(path / "Validation_Dataset"), val_set="StreetObstaclesVal", num_workers=0)
    anomalies.setup("test")
    assert anomalies.counts["val"]["images"] == 2
    masks, own_masks = (
        torch.cat([batch["anomaly"] for batch in loader])
        for loader in (anomalies.test_dataloader(), own.test_dataloader())
    )
    assert torch.equal(masks, own_masks)


def test_no_street_is_drawn_twice(path: Path) -> None:
    files = [*path.rglob("*_leftImg8bit.png"), *path.glob("Validation_Dataset/*/images/*.png")]
    assert len(files) == len({file.read_bytes() for file in files}) == 2 + 2 + 4 + 2


def test_an_obstacle_changes_a_street_where_its_mask_says_and_nowhere_else() -> None:
    shares = []
    for number in range(30):
        known, scene = (draw_street(np.random.default_rng(number)) for _ in range(2))
        unknown = add_obstacles(scene, np.random.default_rng(100 + number)).class_ids()
        changed = unknown == UNKNOWN
        np.testing.assert_array_equal(unknown[~changed], known.class_ids()[~changed])
        shares.append(changed.mean())
    assert 0.01 < np.mean(shares) < 0.05
    assert min(shares) > 0.001


def test_nearer_cars_and_persons_cover_an_obstacle() -> None:
    covered = 0
    for number in range(60):
        known, scene = (draw_street(np.random.default_rng(number)) for _ in range(2))
        add_obstacles(scene, np.random.default_rng(100 + number))
        depths, classes = (
            np.array([getattr(material, field) for material in scene.materials]) for field in ("depth", "class_id")
        )
        is_upright = np.isin(classes, (CAR, PERSON, IGNORE_INDEX))[known.surface]
        replaced = (classes[scene.surface] == UNKNOWN) & is_upright
        assert (depths[known.surface][replaced] >= depths[scene.surface][replaced]).all()
        covered += replaced.any()
    assert covered > 5


def test_other_settings_in_the_same_folder_are_refused(path: Path) -> None:
    with pytest.raises(UserError, match="seed 0 instead of 1"):
        streets(path, seed=1).prepare_data()
    with pytest.raises(UserError, match="num_test: 1; must be at least 2"):
        streets(path, num_test=1)


def test_the_same_seed_draws_the_same_files(path: Path, tmp_path: Path) -> None:
    streets(tmp_path / "again").prepare_data()
    for file in path.rglob("*.png"):
        assert (tmp_path / "again" / file.relative_to(path)).read_bytes() == file.read_bytes()


def test_masks_keep_255(path: Path) -> None:
    masks = [np.asarray(Image.open(file)) for file in path.glob("Validation_Dataset/*/labels_masks/*.png")]
    assert {int(value) for mask in masks for value in np.unique(mask)} == {0, 1, 255}
