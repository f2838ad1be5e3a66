import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from datamodules import Severstal, SteelStrips
from datamodules.generated.steel.drawing import draw_steel, paint_lines, paint_patch, paint_pits, paint_scratches
from datamodules.generated.steel.shapes import draw_shapes
from datamodules.generated.steel.steel_strips import COPY_EVERY
from eomt.errors import UserError

SIZE = (64, 384)


def strips(path: Path, **arguments: Any) -> SteelStrips:
    data = SteelStrips(str(path), **({"num_images": 30, "img_size": (64, 128)} | arguments))
    data.prepare_data()
    return data


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("domain", ["steel", "shapes"])
def test_batches(tmp_path: Path, domain: str) -> None:
    data = strips(tmp_path / "strips", domain=domain, batch_size=2)
    data.setup()
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert train["image"].shape == (2, 3, 64, 128)
    assert all(masks.shape[1:] == (64, 128) and len(masks) for masks in train["masks"])
    assert all(masks.shape[1:] == SIZE and masks.flatten(1).any(1).all() for masks in val["masks"])
    assert data.num_classes == 4
    assert sum(map(len, data.split_record.values())) == 30


def test_the_files_are_a_severstal_data_set_with_the_masks_that_were_drawn(tmp_path: Path) -> None:
    strips(tmp_path / "strips", seed=5)
    data = Severstal(str(tmp_path / "strips"), img_size=64, num_workers=0)
    data.setup()
    assert data.class_names == ["defect_1", "defect_2", "defect_3", "defect_4"]
    for batch in data.val_dataloader():
        number = int(batch["name"][0].removesuffix(".jpg").removeprefix("strip_"))
        number -= number % COPY_EVERY == COPY_EVERY - 1
        drawn = draw_steel(np.random.default_rng([5, number]), SIZE).masks
        assert batch["class_ids"][0].tolist() == sorted(drawn)
        expected = np.stack([drawn[class_id] for class_id in sorted(drawn)])
        assert torch.equal(batch["masks"][0], torch.from_numpy(expected))


def test_the_same_seed_draws_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        strips(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    images = [content for name in "ac" for file, content in contents(tmp_path / name).items() if file.endswith(".jpg")]
    assert len(set(images)) == len(images) - 2 * (30 // COPY_EVERY)


def test_copies_are_in_one_split_and_more_images_change_none(tmp_path: Path) -> None:
    data = strips(tmp_path / "more", num_images=100)
    split_of = {name: split for split, names in data.split_record.items() for name in names}
    for number in range(COPY_EVERY - 1, 100, COPY_EVERY):
        assert split_of[f"strip_{number:05d}.jpg"] == split_of[f"strip_{number - 1:05d}.jpg"]
    strips(tmp_path / "less", num_images=40)
    for file, content in contents(tmp_path / "less").items():
        assert not file.endswith(".jpg") or contents(tmp_path / "more")[file] == content


def test_every_class_occurs_and_some_strips_are_clean(tmp_path: Path) -> None:
    data = strips(tmp_path / "strips", num_images=100)
    with (tmp_path / "strips" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    numbers = [sum(int(row["ClassId"]) == label for row in rows) for label in range(1, 5)]
    assert min(numbers) >= 8
    defective = {row["ImageId"] for row in rows}
    assert 8 <= 100 - len(defective) <= 35
    assert len(rows) > len(defective)
    data.setup()
    assert all(counts[name] for counts in data.counts.values() for name in data.class_names)


@pytest.mark.parametrize("draw", [draw_steel, draw_shapes])
@pytest.mark.parametrize("size", [(64, 384), (32, 64), (128, 128)], ids=str)
def test_classes_do_not_overlap_and_no_mask_is_tiny(draw: Any, size: tuple[int, int]) -> None:
    for number in range(20):
        canvas = draw(np.random.default_rng(number), size)
        assert canvas.image().shape == (*size, 3)
        assert sum(mask.astype(int) for mask in canvas.masks.values()).max() <= 1 if canvas.masks else True
        assert all(mask.shape == size and mask.sum() >= 40 for mask in canvas.masks.values())


@pytest.mark.parametrize("paint", [paint_pits, paint_lines, paint_scratches, paint_patch])
def test_a_defect_changes_its_mask_and_hardly_anything_else(paint: Any) -> None:
    light = np.full((*SIZE, 3), 100, dtype=np.float32)
    for seed in range(10):
        mask, changed = paint(np.random.default_rng(seed), light)
        change = np.abs(changed - light)[..., 0]
        assert change[mask].mean() > 4
        assert change[~ndimage.binary_dilation(mask, iterations=3)].max(initial=0) < 3


def test_no_threshold_of_brightness_finds_the_defects(tmp_path: Path) -> None:
    data = strips(tmp_path / "strips", num_images=80, img_size=SIZE)
    batches = [*data.val_dataloader(), *data.test_dataloader()]
    images = torch.cat([batch["image"] for batch in batches])[:, 0].float()
    truth = torch.stack([masks.any(0) for batch in batches for masks in batch["masks"]])
    even = images - torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 20, 20)))
    ious = []
    for values in (images, even, even.abs()):
        for threshold in range(-80, 256, 4):
            for found in (values > threshold, values < threshold):
                ious.append(((found & truth).sum() / (found | truth).sum()).item())
    assert max(ious) < 0.35


def test_finished_strips_are_not_drawn_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    strips(tmp_path / "strips")
    file = tmp_path / "strips" / "train_images" / "strip_00000.jpg"
    file.write_bytes(b"untouched")
    strips(tmp_path / "strips")
    assert file.read_bytes() == b"untouched"
    with pytest.raises(UserError, match="domain steel instead of shapes, seed 0 instead of 1"):
        strips(tmp_path / "strips", domain="shapes", seed=1)


@pytest.mark.parametrize("name", ["thesis.txt", "steel_strips.json"])
def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[1]")
    with pytest.raises(UserError, match="holds no generated steel strips"):
        strips(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.generated.steel.steel_strips.encode_runs", fail)
    with pytest.raises(KeyboardInterrupt):
        strips(tmp_path / "strips")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_stand_there_already(tmp_path: Path) -> None:
    (tmp_path / "strips").mkdir()
    strips(tmp_path / "strips")
    assert (tmp_path / "strips" / "train.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images: 0; must be at least 1"),
        ({"strip_size": (16, 384)}, r"strip_size: \[16, 384\]; must be at least \[32, 64\]"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SteelStrips(**arguments)
