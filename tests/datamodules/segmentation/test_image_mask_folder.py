import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageMaskFolder
from eomt.errors import UserError
from tests.datamodules.common.image_files import (
    HEIGHT,
    WIDTH,
    gray_of,
    make_mask,
    write_given_splits,
    write_pair,
    write_split,
)


def folder(path: Path, **arguments: Any) -> ImageMaskFolder:
    return ImageMaskFolder(str(path), **({"batch_size": 2, "crop_size": (8, 8), "num_workers": 0} | arguments))


def on_rank(data: ImageMaskFolder, rank: int, world_size: int) -> ImageMaskFolder:
    progress = SimpleNamespace(current=SimpleNamespace(completed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop)
    return data


def test_constructor_touches_no_file(tmp_path: Path) -> None:
    data = ImageMaskFolder(str(tmp_path / "nowhere"), class_names=["a", "b"])
    assert (data.num_classes, data.class_names) == (2, ["a", "b"])


def test_classes_are_found_in_the_training_masks(tmp_path: Path) -> None:
    data = folder(write_given_splits(tmp_path))
    assert (data.num_classes, data.class_names) == (3, ["class 0", "class 1", "class 2"])


def test_training_batches(tmp_path: Path) -> None:
    data = folder(write_given_splits(tmp_path, number=5))
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert (batch["image"].shape, batch["image"].dtype) == ((2, 3, 8, 8), torch.uint8)
        assert (batch["mask"].shape, batch["mask"].dtype) == ((2, 8, 8), torch.int64)
        assert set(batch["mask"].unique().tolist()) <= {0, 1, 2, 255}
    assert len({name for batch in batches for name in batch["name"]}) == 4


def test_one_switch_turns_every_random_change_off(tmp_path: Path) -> None:
    """15 H: a sample is then a crop of its file, at the scale of evaluation."""
    data = folder(write_given_splits(tmp_path, number=4), augment=False, crop_size=(HEIGHT, WIDTH))
    data.setup("fit")
    for batch in data.train_dataloader():
        assert torch.equal(batch["image"][:, 0], gray_of(batch["mask"]).to(torch.uint8))
        for name, mask in zip(batch["name"], batch["mask"], strict=True):
            number = int(name.removesuffix(".png"))
            assert torch.equal(mask, torch.from_numpy(make_mask(3, number)).long())


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_gives_every_image_as_it_is(tmp_path: Path, split: str) -> None:
    data = folder(write_given_splits(tmp_path, number=3), eval_batch_size=2)
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    batches = list(loader)
    assert [name for batch in batches for name in batch["name"]] == ["0.png", "1.png", "2.png"]
    assert torch.equal(torch.cat([batch["mask"] for batch in batches])[1], torch.from_numpy(make_mask(3, 1)).long())
    for batch in batches:
        assert batch["image"].shape[1:] == (3, HEIGHT, WIDTH)
        assert torch.equal(batch["image"][:, 0], gray_of(batch["mask"]).to(torch.uint8))


def test_evaluation_on_two_ranks_counts_each_image_once_in_equal_steps(tmp_path: Path) -> None:
    write_given_splits(tmp_path, number=3)
    ranks = [list(on_rank(folder(tmp_path), rank, 2).val_dataloader()) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [2, 2]
    names = [batch["name"][0] for batches in ranks for batch in batches]
    assert sorted(names) == ["", "0.png", "1.png", "2.png"]
    (padding,) = [batch for batches in ranks for batch in batches if batch["name"] == [""]]
    assert (padding["mask"] == 255).all()
    assert padding["image"].shape == (1, 3, HEIGHT, WIDTH)


def test_training_on_two_ranks_shares_the_images_anew_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_given_splits(tmp_path, number=8)

    def names(rank: int, epoch: int) -> list[str]:
        loader = on_rank(folder(tmp_path), rank, 2).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [name for batch in loader for name in batch["name"]]

    assert sorted(names(0, 0) + names(1, 0)) == [f"{number}.png" for number in range(8)]
    assert names(0, 0) != names(0, 1)
    unseeded = names(0, 0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert names(0, 0) != unseeded


def test_counts_tell_how_many_images_hold_each_class(tmp_path: Path) -> None:
    write_given_splits(tmp_path, number=3, classes=2)
    write_pair(tmp_path / "train", "only_a.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    write_pair(tmp_path / "train", "ignored.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    data = folder(tmp_path, class_names=["a", "b", "never"])
    data.setup("fit")
    assert data.counts == {
        "train": {"images": 5, "a": 4, "b": 3, "never": 0},
        "val": {"images": 3, "a": 3, "b": 3, "never": 0},
    }


def test_class_map_and_ignored_labels_reach_the_batch(tmp_path: Path) -> None:
    write_given_splits(tmp_path)
    data = folder(tmp_path, class_map={2: 0, 0: 1}, ignore_labels=[1])
    data.setup("fit")
    raw = torch.from_numpy(make_mask(3, 0)).long()
    assert torch.equal(next(iter(data.val_dataloader()))["mask"][0], torch.tensor([1, 255, 0])[raw])


def test_binary_masks_of_0_and_255_work_as_the_hint_says(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index in range(2):
            write_pair(tmp_path / split, f"{index}.png", make_mask(2, index) * 3)
            Image.fromarray(make_mask(2, index) * 255).save(tmp_path / split / "masks" / f"{index}.png")
    with pytest.raises(UserError, match=r"class_map: \{0: 0, 255: 1\} and ignore_labels: \[\]"):
        _ = folder(tmp_path).num_classes
    with pytest.raises(UserError, match=r"class_map: \{0: 0, 255: 1\} and ignore_labels: \[\]"):
        folder(tmp_path, class_names=["a", "b"]).setup("fit")
    data = folder(tmp_path, class_map={0: 0, 255: 1}, ignore_labels=[])
    data.setup("fit")
    assert next(iter(data.val_dataloader()))["mask"].unique().tolist() == [0, 1]


def test_color_masks_reach_the_batch(tmp_path: Path) -> None:
    colors = [(200, 0, 0), (0, 0, 0), (0, 200, 7)]
    write_given_splits(tmp_path)
    for split in ("train", "val"):
        for index in range(4):
            pixels = np.array(colors, dtype=np.uint8)[make_mask(3, index)]
            Image.fromarray(pixels).save(tmp_path / split / "masks" / f"{index}.png")
    data = folder(tmp_path, class_colors=colors)
    data.setup("fit")
    assert data.num_classes == 3
    assert torch.equal(next(iter(data.val_dataloader()))["mask"][0], torch.from_numpy(make_mask(3, 0)).long())


def test_split_is_recorded_and_used_again(tmp_path: Path) -> None:
    write_split(tmp_path / "data", number=12)
    first = folder(tmp_path / "data", split_seed=1)
    record = first.split_record
    assert {split: len(names) for split, names in record.items()} == {"train": 8, "val": 2, "test": 2}
    assert folder(tmp_path / "data", split_seed=2).split_record != record
    (tmp_path / "splits.json").write_text(json.dumps(record))
    again = folder(tmp_path / "data", split_seed=2, splits=str(tmp_path / "splits.json"))
    assert again.split_record == record
    assert [batch["name"][0] for batch in again.val_dataloader()] == record["val"]


@pytest.mark.parametrize(
    ("masks", "splits"), [("annotations", ("training", "validation")), ("masks", ("train", "val", "test"))]
)
def test_splits_may_lie_inside_images_and_masks(tmp_path: Path, masks: str, splits: tuple[str, ...]) -> None:
    for index, split in enumerate(splits):
        write_split(tmp_path / "other" / split, number=2 + index)
        for source, target in (("images", "images"), ("masks", masks)):
            (tmp_path / target).mkdir(exist_ok=True)
            (tmp_path / "other" / split / source).rename(tmp_path / target / split)
    data = folder(tmp_path)
    assert not data.is_split_by_seed
    numbers = {split: len(names) for split, names in data.split_record.items()}
    assert numbers == {"train": 2, "val": 3, "test": 4 if "test" in splits else 0}
    (batch,) = data.train_dataloader()
    assert sorted(batch["name"]) == ["0.png", "1.png"]
    # a test split whose masks nobody has is none
    shutil.rmtree(tmp_path / masks / splits[-1])
    if "test" in splits:
        assert folder(tmp_path).split_record["test"] == []


@pytest.mark.parametrize("names", [("train", "bus"), ("train", "test"), ("train", "val", "car")])
def test_folders_inside_images_that_are_no_splits_are_split_by_the_seed(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        for kind in ("images", "masks"):
            write_split(tmp_path / "other" / name, number=6)
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.move(tmp_path / "other" / name / kind, tmp_path / kind / name)
    data = folder(tmp_path)
    assert data.is_split_by_seed
    assert sum(map(len, data.split_record.values())) == 6 * len(names)


def test_a_record_goes_before_the_names_of_folders_and_masks_before_annotations(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_split(tmp_path / "other" / split, number=2)
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.move(tmp_path / "other" / split / kind, tmp_path / kind / split)
    (tmp_path / "annotations").mkdir()
    assert folder(tmp_path).split_record == {"train": ["0.png", "1.png"], "val": ["0.png", "1.png"], "test": []}
    record = {"train": ["train/0.png", "val/1.png"], "val": ["val/0.png"], "test": ["train/1.png"]}
    (tmp_path / "splits.json").write_text(json.dumps(record))
    assert folder(tmp_path, splits=str(tmp_path / "splits.json")).split_record == record


def test_ade20k_is_read_as_it_is_published(tmp_path: Path) -> None:
    for split, labels in (("training", [[0, 1], [2, 150]]), ("validation", [[0, 3], [2, 1]])):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        stem = f"ADE_{split[:5]}_00000001"
        mask = np.kron(np.array(labels, np.uint8), np.ones((8, 8), np.uint8))
        Image.fromarray(mask).save(tmp_path / "annotations" / split / f"{stem}.png")
        Image.fromarray(np.stack([mask] * 3, -1)).save(tmp_path / "images" / split / f"{stem}.jpg")
    data = folder(tmp_path, class_map="ade20k", batch_size=1)
    data.setup("fit")
    assert (data.num_classes, data.class_names[:2], data.class_names[-1]) == (150, ["wall", "building"], "flag")
    (batch,) = data.val_dataloader()
    assert batch["name"] == ["ADE_valid_00000001.jpg"]
    assert batch["mask"].unique().tolist() == [0, 1, 2, 255]


def test_given_splits_are_recorded(tmp_path: Path) -> None:
    names = ["0.png", "1.png"]
    assert folder(write_given_splits(tmp_path, 2)).split_record == {"train": names, "val": names, "test": names}


def test_prediction_takes_images_of_the_test_split_or_of_a_path(tmp_path: Path) -> None:
    write_given_splits(tmp_path / "data", 2)
    (batch, _) = folder(tmp_path / "data").predict_dataloader()
    assert set(batch) == {"image", "name"}
    write_pair(tmp_path / "new", "a/b.jpg", make_mask())
    for path, name in ((tmp_path / "new" / "images", "a/b.jpg"), (tmp_path / "new/images/a/b.jpg", "b.jpg")):
        data = folder(tmp_path / "no data here", predict_path=str(path))
        data.setup("predict")
        assert [batch["name"] for batch in data.predict_dataloader()] == [[name]]


def test_prediction_falls_back_to_val(tmp_path: Path) -> None:
    data = folder(write_split(tmp_path, 4), test_fraction=0.0, val_fraction=0.5)
    assert [batch["name"][0] for batch in data.predict_dataloader()] == data.split_record["val"]


def test_a_workers_mistake_reaches_the_user(tmp_path: Path) -> None:
    data = folder(write_given_splits(tmp_path), num_workers=1, class_names=["a", "b", "c"])
    (tmp_path / "val" / "images" / "0.png").write_text("")
    with pytest.raises(UserError, match=r"0\.png: cannot be read"):
        next(iter(data.val_dataloader()))


def spoil_label(path: Path) -> None:
    mask = make_mask()
    mask[0, :5] = 9
    Image.fromarray(mask).save(path / "val" / "masks" / "2.png")


def spoil_size(path: Path) -> None:
    Image.fromarray(make_mask()[:8]).save(path / "train" / "masks" / "2.png")


def spoil_image(path: Path) -> None:
    file = path / "train" / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:-30])


def spoil_classes(path: Path) -> None:
    for file in (path / "train" / "masks").iterdir():
        Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(file)


def remove_val(path: Path) -> None:
    (path / "val").rename(path / "later")


def remove_images(path: Path) -> None:
    for file in (path / "val").rglob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (spoil_label, {}, r"val/masks/2\.png: label 9 \(5 pixels\).*class_map"),
        (None, {"class_names": ["a", "b"]}, r"label 2 \(\d+ pixels\)"),
        (spoil_size, {}, r"masks/2\.png: mask of 8 x 16 .* image of 12 x 16"),
        (spoil_image, {}, r"images/1\.png: cannot be read"),
        (spoil_classes, {"class_names": ["a", "b", "c"]}, "hold only labels 1, of which fewer than two are classes"),
        (remove_val, {}, "val: no such folder"),
        (remove_images, {}, "val/images: no file ends with"),
        (None, {"batch_size": 5}, "batch_size: 5 on 1 processes is more than the 4 training images"),
        (None, {"splits": "splits.json"}, "splits: .* is split by its folders"),
    ],
)
def test_errors_are_found_before_training(tmp_path: Path, spoil: Any, arguments: dict[str, Any], message: str) -> None:
    write_given_splits(tmp_path)
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        folder(tmp_path, **arguments).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"eval_batch_size": 0}, "eval_batch_size: 0"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "sum below 1"),
        ({"scale_range": (2.0, 0.5)}, "scale_range"),
        ({"mask_threshold": 0}, "mask_threshold: 0"),
        ({"mask_threshold": 9, "class_map": {0: 0, 1: 1}}, "mask_threshold: states the classes"),
        ({"class_map": {0: 0, 255: 1}}, "ignore_labels"),
    ],
)
def test_impossible_fields_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageMaskFolder("data", **arguments)


def test_missing_data_missing_splits_and_missing_crop_size_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"path: .*nowhere is not a folder"):
        folder(tmp_path / "nowhere").setup("fit")
    with pytest.raises(UserError, match="holds neither 'train' nor 'images'"):
        folder(tmp_path).setup("fit")
    write_split(tmp_path, 4)
    with pytest.raises(UserError, match="no test split; use validate"):
        folder(tmp_path, test_fraction=0.0).test_dataloader()
    with pytest.raises(UserError, match="crop_size: null"):
        folder(tmp_path, crop_size=None).train_dataloader()
    with pytest.raises(UserError, match=r"predict_path: .* is no image and no folder"):
        folder(tmp_path, predict_path=str(tmp_path / "nothing")).predict_dataloader()
    write_pair(tmp_path / "one", "0.png", make_mask())
    with pytest.raises(UserError, match="train split is empty"):
        folder(tmp_path / "one", class_names=["a", "b", "c"]).setup("fit")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentation_follows_from_the_seed_and_leaves_the_random_state_alone(tmp_path: Path, num_workers: int) -> None:
    write_given_splits(tmp_path)
    state = torch.get_rng_state()
    batches = list(folder(tmp_path, num_workers=num_workers).train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = list(folder(tmp_path, num_workers=0).train_dataloader())
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize("names", [("Train", "Valid"), ("training", "val", "testing")])
@pytest.mark.parametrize("is_inside", [True, False])
def test_splits_have_the_names_that_tools_give_them(tmp_path: Path, names: tuple[str, ...], is_inside: bool) -> None:
    for number, name in enumerate(names):
        for kind in ("images", "masks"):
            (tmp_path / (f"{kind}/{name}" if is_inside else f"{name}/{kind}")).mkdir(parents=True)
        place = tmp_path / "images" / name if is_inside else tmp_path / name / "images"
        masks = tmp_path / "masks" / name if is_inside else tmp_path / name / "masks"
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(place / "a.png")
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(masks / "a.png")
    data = folder(tmp_path)
    assert not data.is_split_by_seed
    assert [len(pairs) for pairs in data.find_splits().values()] == [1, 1, len(names) - 2]


def test_a_seed_that_splits_folders_called_like_splits_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "test"):
        write_split(tmp_path / name)
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / name / kind).rename(tmp_path / kind / name)
        (tmp_path / name).rmdir()
    folder(tmp_path).find_splits()
    assert "a seed splits all images, those of train, test alike" in caplog.text
