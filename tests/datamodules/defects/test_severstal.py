import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning import LightningDataModule
from PIL import Image
from torch.nn.functional import adaptive_max_pool2d
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules import Severstal
from datamodules.common.orientation import turned
from eomt.app.config import use_recorded_split
from eomt.errors import UserError
from tests.datamodules.defects.defect_files import (
    HEIGHT,
    WIDTH,
    Masks,
    described,
    make_masks,
    severstal,
    write_image,
    write_json,
    write_kaggle,
    write_masks,
    write_supervisely,
)


def check_truth(batches: list[dict[str, Any]], truth: dict[str, Masks]) -> list[str]:
    """Compare evaluation batches with the truth and return their names."""
    names = []
    for batch in batches:
        for name, masks, class_ids in zip(batch["name"], batch["masks"], batch["class_ids"], strict=True):
            assert (masks.dtype, class_ids.dtype) == (torch.bool, torch.int64)
            assert masks.shape == (len(class_ids), HEIGHT, WIDTH)
            assert class_ids.tolist() == sorted(truth[name])
            for mask, class_id in zip(masks, class_ids.tolist(), strict=True):
                np.testing.assert_array_equal(mask.numpy(), truth[name][class_id])
            names.append(name)
    return names


def everything(data: Severstal) -> list[dict[str, Any]]:
    data.setup()
    loaders = [data.val_dataloader(), data.test_dataloader()]
    data.augment, data.batch_size = False, 1
    return [batch for loader in [*loaders, data.train_dataloader()] for batch in loader]


@pytest.mark.parametrize("old", [False, True], ids=["three columns", "two columns"])
@pytest.mark.parametrize("include_clean", [False, True])
def test_kaggles_table_reaches_the_batches(tmp_path: Path, old: bool, include_clean: bool) -> None:
    truth = write_kaggle(tmp_path, 20, old)
    names = check_truth(everything(severstal(tmp_path, include_clean=include_clean)), truth)
    assert sorted(names) == sorted(name for name, masks in truth.items() if masks or include_clean)


@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
@pytest.mark.parametrize("write", ["kaggle", "supervisely", "masks"])
def test_annotations_follow_an_image_that_is_turned(tmp_path: Path, write: str, orientation: int) -> None:
    """15.7: runs, bitmaps and masks live in the pixels of the file."""
    if write == "kaggle":
        truth = write_kaggle(tmp_path)
    elif write == "masks":
        truth = write_masks(tmp_path, range(12))
    else:
        truth = write_supervisely(tmp_path / "train", range(8)) | write_supervisely(tmp_path / "val", range(8, 12))
    for file in tmp_path.rglob("*.png"):
        if file.parent.name != "masks":
            with Image.open(file) as image:
                exif = Image.Exif()
                exif[0x0112] = orientation
                image.copy().save(file, exif=exif)
    data = severstal(tmp_path)
    data.setup("fit")
    (batch, *_) = data.val_dataloader()
    parts = (batch[key] for key in ("image", "masks", "name", "class_ids"))
    for image, masks, name, class_ids in zip(*parts, strict=True):
        for mask, class_id in zip(masks, class_ids.tolist(), strict=True):
            np.testing.assert_array_equal(mask.numpy(), turned(truth[name][class_id], orientation))
        assert image.shape[-2:] == data.img_size


@pytest.mark.parametrize("suffix", ["_split", ""])
def test_supervisely_folders_reach_the_batches(tmp_path: Path, suffix: str) -> None:
    numbers = {"train": range(8), "val": range(8, 12), "test": range(12, 16)}
    truths = {split: write_supervisely(tmp_path / f"{split}{suffix}", part) for split, part in numbers.items()}
    data = severstal(tmp_path)
    names = check_truth(everything(data), {name: m for truth in truths.values() for name, m in truth.items()})
    assert len(names) == 12
    assert data.class_names == ["defect_1", "defect_2", "defect_3", "defect_4"]
    assert data.split_record == {split: sorted(truth) for split, truth in truths.items()}


def test_titles_of_all_splits_name_the_classes(tmp_path: Path) -> None:
    write_supervisely(tmp_path / "train", range(3), "crack ")
    write_supervisely(tmp_path / "val", range(4, 5), "dent ")
    titles = {f"crack {c + 1}" for n in range(3) for c in make_masks(n)} | {f"dent {c + 1}" for c in make_masks(4)}
    data = severstal(tmp_path)
    assert data.class_names == sorted(titles)
    assert data.num_classes == len(titles)


def test_plain_masks_reach_the_batches(tmp_path: Path) -> None:
    truth = write_masks(tmp_path, range(12))
    data = severstal(tmp_path)
    assert data.class_names == ["class 1", "class 2", "class 3"]
    assert len(check_truth(everything(data), truth)) == 12


def test_black_and_white_masks_hold_one_class(tmp_path: Path) -> None:
    truth = write_masks(tmp_path, range(8), value=255)
    data = severstal(tmp_path)
    assert data.num_classes == 1
    assert len(check_truth(everything(data), truth)) == 8


@pytest.mark.parametrize(
    ("img_size", "expected"), [(64, (64, 64)), ((32, 96), (32, 96)), (None, (1024, 1024))], ids=str
)
def test_images_have_the_networks_size_and_evaluation_masks_that_of_the_file(
    tmp_path: Path, img_size: Any, expected: tuple[int, int]
) -> None:
    write_kaggle(tmp_path)
    data = severstal(tmp_path, img_size=img_size, batch_size=2, eval_batch_size=2)
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    for batch, size in ((train, expected), (val, (HEIGHT, WIDTH))):
        assert (batch["image"].shape[1:], batch["image"].dtype) == ((3, *expected), torch.uint8)
        assert all(masks.shape[1:] == size for masks in batch["masks"])
    assert len(train["image"]) == 2


def test_masks_move_with_their_image(tmp_path: Path) -> None:
    """Images that are white just where their mask is stay so when they are mirrored."""
    truth = write_kaggle(tmp_path)
    for name, masks in truth.items():
        white = np.any([*masks.values()], axis=0) if masks else np.zeros((HEIGHT, WIDTH), dtype=bool)
        Image.fromarray(white.astype(np.uint8) * 255).save(tmp_path / "train_images" / name)
    data = severstal(tmp_path, include_clean=False)
    seen = set()
    for epoch in range(8):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            union, upright = batch["masks"][0].any(0), torch.from_numpy(np.any([*truth[batch["name"][0]].values()], 0))
            assert torch.equal(batch["image"][0, 0] > 100, union)
            flips = [axes for axes in ((), (0,), (1,), (0, 1)) if torch.equal(upright.flip(axes), union)]
            seen.update(flips if len(flips) == 1 else [])
    assert seen == {(), (0,), (1,), (0, 1)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentation_follows_from_the_seed_and_leaves_the_random_state_alone(tmp_path: Path, num_workers: int) -> None:
    write_kaggle(tmp_path)
    state = torch.get_rng_state()
    batches = list(severstal(tmp_path, num_workers=num_workers).train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = list(severstal(tmp_path).train_dataloader())
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(batches, again, strict=True))
    plain = list(severstal(tmp_path, augment=False).train_dataloader())
    assert not all(torch.equal(one["image"], other["image"]) for one, other in zip(batches, plain, strict=True))


def plain_resize(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize whole masks, (N, H, W) bool; those that vanish take every pixel that they touch."""
    resized = F.resize(masks.byte(), list(size), InterpolationMode.NEAREST_EXACT).bool()
    lost = ~resized.flatten(1).any(1)
    resized[lost] = adaptive_max_pool2d(masks[lost].float(), size) > 0
    return resized


def test_training_shows_what_a_resize_of_whole_masks_gives(tmp_path: Path) -> None:
    truth = write_kaggle(tmp_path)
    data = severstal(tmp_path, img_size=(7, 9))
    loader = data.train_dataloader()
    for name, seed in [(name, seed) for name in data.split_record["train"] if truth[name] for seed in range(4)]:
        names = [sample.name for sample in loader.dataset.samples]
        sample = loader.dataset[(names.index(name), seed)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flipped = [axis for axis in (-1, -2) if torch.rand(()) < 0.5]
        masks = torch.from_numpy(np.stack([truth[name][c] for c in sorted(truth[name])])).flip(flipped)
        assert torch.equal(sample["masks"], plain_resize(masks, (7, 9)))


ROWS = "im_00.png,2,1 3\nim_00.png,2,40 2\nim_00.png,2,3 2\nim_00.png,1,100 4\n"


@pytest.mark.parametrize(
    ("objects", "classes", "areas"),
    [("class", [0, 1], [4, 6]), ("component", [0, 1, 1], [4, 4, 2]), ("instance", [1, 1, 1, 0], [3, 2, 2, 4])],
)
def test_an_object_is_a_class_a_component_or_what_was_annotated(
    tmp_path: Path, objects: Any, classes: list[int], areas: list[int]
) -> None:
    """Rows of a table may overlap: pixels 1 to 3 and 3 to 4 are one component."""
    write_kaggle(tmp_path)
    table = tmp_path / "train.csv"
    kept = [line for line in table.read_text().splitlines() if not line.startswith("im_00")]
    table.write_text("\n".join(kept) + "\n" + ROWS)
    for batch in everything(severstal(tmp_path, objects=objects)):
        if batch["name"] == ["im_00.png"]:
            assert batch["class_ids"][0].tolist() == classes
            assert batch["masks"][0].sum((1, 2)).tolist() == areas
            return
    raise AssertionError("the image is in no split")


def test_objects_of_supervisely_and_components_of_masks_stay_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index in (0, 1):
            write_image(tmp_path / "s" / split / "img" / f"{split}{index}.png", index + 7 * (split == "val"))
            parts = [described("dent", np.ones((2, 2), dtype=bool), [left, 3]) for left in (0, 2, 9)]
            write_json(tmp_path / "s" / split / "ann" / f"{split}{index}.png.json", parts, (HEIGHT, WIDTH))
    for objects, count in (("instance", 3), ("component", 2), ("class", 1)):
        data = severstal(tmp_path / "s", objects=objects)
        assert [len(batch["masks"][0]) for batch in data.val_dataloader()] == [count, count]
        assert all(len(batch["masks"][0]) == count for batch in data.train_dataloader())
    write_masks(tmp_path / "m", range(8))
    for file in (tmp_path / "m" / "masks").iterdir():
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[2:4, [3, 9, 20]] = 1
        Image.fromarray(mask).save(file)
    assert len(next(iter(severstal(tmp_path / "m", objects="component").val_dataloader()))["masks"][0]) == 3
    with pytest.raises(UserError, match=r"objects: instance, but the masks in .*m hold classes alone; give component"):
        severstal(tmp_path / "m", objects="instance").setup("fit")


def test_evaluation_on_two_ranks_counts_each_image_once_in_equal_steps(tmp_path: Path) -> None:
    for split, numbers in {"train": range(4), "val": range(4, 7)}.items():
        write_masks(tmp_path / split, numbers)
    ranks = []
    for rank in range(2):
        data = severstal(tmp_path)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        ranks.append(list(data.val_dataloader()))
    assert [len(batches) for batches in ranks] == [2, 2]
    assert sorted(batch["name"][0] for batches in ranks for batch in batches) == ["", "4.png", "5.png", "6.png"]
    (padding,) = [batch for batches in ranks for batch in batches if batch["name"] == [""]]
    assert padding["masks"][0].shape == (0, HEIGHT, WIDTH)
    assert padding["class_ids"][0].shape == (0,)


def test_copies_of_an_image_stay_in_one_split(tmp_path: Path) -> None:
    write_kaggle(tmp_path, 24)
    images = tmp_path / "train_images"
    copies = {f"im_{index:02d}.png": f"copy_{index:02d}.png" for index in range(0, 24, 2)}
    for name, copy in copies.items():
        (images / copy).write_bytes((images / name).read_bytes())
    with (tmp_path / "train.csv").open("a") as file:
        # annotated differently, as some of Severstal's are
        file.writelines(f"{copy},4,1 3\n" for copy in copies.values())
    for split_seed in range(4):
        data = severstal(tmp_path, split_seed=split_seed)
        split_of = {name: split for split, names in data.split_record.items() for name in names}
        assert all(split_of[name] == split_of[copy] for name, copy in copies.items())
        data.setup()


def test_the_split_of_defects_does_not_depend_on_clean_images_taking_part(tmp_path: Path) -> None:
    write_kaggle(tmp_path, 24)
    assert severstal(tmp_path).split_record == severstal(tmp_path, include_clean=True).split_record
    assert severstal(tmp_path, split_seed=1).split_record != severstal(tmp_path).split_record


def test_a_recorded_split_is_used_again_by_the_command_line(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "data", 24)
    record = severstal(tmp_path / "data", split_seed=1).split_record
    run = tmp_path / "run"
    run.mkdir()
    (run / "splits.json").write_text(json.dumps(record))
    (run / "config.yaml").write_text(f"data: {{init_args: {{path: {tmp_path / 'data'}}}}}\n")
    config = Namespace(data=Namespace(init_args=Namespace(path=str(tmp_path / "data"), splits=None)))
    assert use_recorded_split(config, run, trains=False)
    again = severstal(tmp_path / "data", split_seed=2, splits=config.data.init_args.splits)
    assert again.is_split_by_seed
    assert again.split_record == record


def copy_across(path: Path) -> None:
    (path / "val" / "img" / "8.png").write_bytes((path / "train" / "img" / "0.png").read_bytes())


def test_overlap_is_refused_in_given_and_in_recorded_splits(tmp_path: Path) -> None:
    for split, numbers in {"train": range(3), "val": range(8, 10)}.items():
        write_supervisely(tmp_path / "given" / split, numbers)
    copy_across(tmp_path / "given")
    with pytest.raises(UserError, match=r"val/img/8\.png: in val, is a copy of .*train/img/0\.png in train"):
        severstal(tmp_path / "given").setup("fit")
    write_kaggle(tmp_path / "kaggle", 4)
    images = tmp_path / "kaggle" / "train_images"
    (images / "im_01.png").write_bytes((images / "im_00.png").read_bytes())
    record = {"train": ["im_00.png", "im_02.png"], "val": ["im_01.png"]}
    (tmp_path / "splits.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"im_01\.png: in val, is a copy of .*im_00\.png in train"):
        severstal(tmp_path / "kaggle", splits=str(tmp_path / "splits.json")).setup("fit")


def test_counts_tell_how_many_images_hold_each_class(tmp_path: Path) -> None:
    truth = write_kaggle(tmp_path, 20)
    data = severstal(tmp_path)
    data.setup()
    for class_id, name in enumerate(data.class_names):
        assert sum(counts[name] for counts in data.counts.values()) == sum(class_id in m for m in truth.values())
    assert sum(counts["images"] for counts in data.counts.values()) == sum(bool(m) for m in truth.values())


def test_prediction_takes_the_test_split_or_any_images_and_never_their_masks(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "data")
    data = severstal(tmp_path / "data")
    batches = list(data.predict_dataloader())
    names = [name for batch in batches for name in batch["name"]]
    assert names == [name for batch in data.test_dataloader() for name in batch["name"]]
    assert not any({"masks", "class_ids", "prompts"} & batch.keys() for batch in batches)
    write_image(tmp_path / "new" / "a" / "b.png", 99)
    for path, name in (("new", "a/b.png"), ("new/a/b.png", "b.png")):
        data = severstal(tmp_path / "no data here", predict_path=str(tmp_path / path))
        data.setup("predict")
        (batch,) = data.predict_dataloader()
        assert (batch["name"], batch["size"]) == ([name], [(HEIGHT, WIDTH)])


def test_number_of_classes_needs_no_file_where_names_are_given(tmp_path: Path) -> None:
    assert Severstal(str(tmp_path / "nowhere"), class_names=["a", "b"]).num_classes == 2


@pytest.mark.parametrize(("given", "expected"), [("256", (256, 256)), ("[256, 1600]", (256, 1600))])
def test_the_command_line_builds_it_from_yaml(given: str, expected: tuple[int, int]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    text = f"data: {{class_path: datamodules.Severstal, init_args: {{path: data, img_size: {given}}}}}"
    assert parser.instantiate_classes(parser.parse_string(text)).data.img_size == expected
