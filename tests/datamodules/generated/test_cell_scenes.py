"""The drawn cells of the quickstart: COCO's layout, objects that overlap, and two looks of the same cells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import CellScenes
from datamodules.generated.cells.drawing import CLASS_NAMES, MOST_SHARED, draw_cells
from eomt.errors import UserError


def cells(path: Path, **arguments: Any) -> CellScenes:
    sizes = {"num_train": 4, "num_val": 2, "num_test": 1, "batch_size": 2, "crop_size": (128, 128)}
    data = CellScenes(path=path, **(sizes | arguments))
    data.prepare_data()
    return data


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*.*")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CellScenes:
    found = cells(tmp_path_factory.mktemp("cells") / "stain")
    found.setup()
    return found


def test_batches(data: CellScenes) -> None:
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 128, 128)
    for masks, labels in zip(batch["masks"], batch["labels"], strict=True):
        assert (len(masks), masks.size) == (len(labels), (128, 128))
    assert data.class_names == CLASS_NAMES
    assert {split: len(names) for split, names in data.split_record.items()} == {"train": 4, "val": 2, "test": 1}


def test_evaluated_objects_are_the_cells_that_were_drawn(data: CellScenes) -> None:
    (batch,) = data.val_dataloader()
    for number, (masks, labels) in enumerate(zip(batch["masks"], batch["labels"], strict=True)):
        drawn = draw_cells(np.random.default_rng([0, 1, number, 0]))
        assert labels.tolist() == [cell.class_id for cell in drawn]
        assert torch.equal(masks.dense(), torch.from_numpy(np.stack([cell.mask for cell in drawn])))
    assert not any(is_crowd.any() for is_crowd in batch["is_crowd"])


def test_classes_are_known_before_there_are_files(tmp_path: Path) -> None:
    assert CellScenes(path=tmp_path / "nothing").class_names == CLASS_NAMES


def test_cells_touch_and_overlap_but_none_hides_another() -> None:
    shares = []
    for seed in range(30):
        masks = [cell.mask for cell in draw_cells(np.random.default_rng(seed))]
        for index, mask in enumerate(masks):
            shares += [(mask & other).sum() / min(mask.sum(), other.sum()) for other in masks[:index]]
    assert max(shares) <= MOST_SHARED
    assert np.mean(np.array(shares) > 0) > 0.1


def test_the_same_seed_draws_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    first, again, other = (cells(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert contents(first.path) == contents(again.path)
    pictures = [content for data in (first, other) for name, content in contents(data.path).items() if "png" in name]
    assert len(set(pictures)) == len(pictures)


def test_domains_show_the_same_cells_in_another_light(data: CellScenes, tmp_path: Path) -> None:
    gray = cells(tmp_path / "gray", domain="plain")
    for split in ("train", "val", "test"):
        name = f"annotations/instances_{split}.json"
        assert (data.path / name).read_bytes() == (gray.path / name).read_bytes()
    mask = draw_cells(np.random.default_rng([0, 0, 0, 0]))[0].mask
    stained, plain = (np.array(Image.open(one.path / "train" / "cells_00000.png")).astype(int) for one in (data, gray))
    assert plain.std(axis=2).max() == 0
    assert stained[mask].std(axis=1).mean() > 10
    for picture in (stained, plain):
        assert picture[mask].mean() < picture[~mask].mean()


def test_files_are_those_of_coco(data: CellScenes) -> None:
    document = json.loads((data.path / "annotations" / "instances_train.json").read_text())
    assert [category["name"] for category in document["categories"]] == CLASS_NAMES
    assert {image["file_name"] for image in document["images"]} == {p.name for p in (data.path / "train").iterdir()}
    ids = [annotation["id"] for annotation in document["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_other_settings_need_another_folder(data: CellScenes) -> None:
    with pytest.raises(UserError, match="seed 0 instead of 1"):
        cells(data.path, seed=1)
    with pytest.raises(UserError, match="num_train"):
        CellScenes(num_train=0)
