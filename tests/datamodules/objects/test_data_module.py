"""Batches of each target against loops over the pixels of known objects."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.objects.annotation import Objects, group_objects
from datamodules.objects.datasets import class_map, segments_of
from eomt.errors import UserError
from eomt.utils.labels import IGNORE_INDEX
from tests.datamodules.objects.object_files import HEIGHT, NAMES, WIDTH, KnownObjects, make_objects

KEYS = ("image", "masks", "labels", "name")


def number_of(name: str) -> int:
    return int(Path(name).stem)


def batches_of(path: Path, target: str, **arguments: Any) -> list[dict[str, Any]]:
    data = KnownObjects(path, target=target, **arguments)
    data.setup("fit")
    return list(data.val_dataloader())


def plain_map(objects: Objects, background: bool) -> np.ndarray:
    """Paint pixel by pixel: the smallest object that covers it, of equal ones the last."""
    found = np.full(objects.size, 0 if background else IGNORE_INDEX)
    masks, areas = objects.masks, objects.areas
    for row, column in np.ndindex(*objects.size):
        covering = np.flatnonzero(masks[:, row, column])
        if len(covering):
            smallest = min(covering, key=lambda index: (areas[index], -index))
            found[row, column] = objects.class_ids[smallest] + background
    return found


@pytest.mark.parametrize("background", [True, False])
def test_semantic_batches_show_the_class_of_the_smallest_object(tmp_path: Path, background: bool) -> None:
    data = KnownObjects(tmp_path, target="semantic", background=background, augment=False, batch_size=1)
    data.setup()
    assert data.class_names == ["background"] * background + NAMES
    assert data.num_classes == len(data.file_labels()) == 3 + background
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert set(batch) == {"image", "mask", "name"}
        assert batch["mask"].dtype == torch.int64
        expected = plain_map(make_objects(number_of(batch["name"][0])), background)
        np.testing.assert_array_equal(batch["mask"][0].numpy(), expected)


def test_evaluation_holds_every_instance_at_the_size_of_the_file(tmp_path: Path) -> None:
    for batch in batches_of(tmp_path, "instance", crop_size=None):
        objects = make_objects(number_of(batch["name"][0]))
        assert batch["image"].shape == (1, 3, HEIGHT, WIDTH)
        np.testing.assert_array_equal(batch["masks"][0].dense().numpy(), objects.masks)
        assert batch["labels"][0].tolist() == objects.class_ids.tolist()
        assert batch["is_crowd"][0].tolist() == objects.is_crowd.tolist()


@pytest.mark.parametrize("how", ["component", "class"])
def test_instances_may_be_components_or_classes(tmp_path: Path, how: Any) -> None:
    for batch in batches_of(tmp_path, "instance", objects=how):
        expected = group_objects(make_objects(number_of(batch["name"][0])), how)
        np.testing.assert_array_equal(batch["masks"][0].dense().numpy(), expected.masks)


@pytest.mark.parametrize("seed", range(6))
def test_segments_do_not_overlap_and_stuff_has_one(seed: int) -> None:
    objects = make_objects(seed if seed % 4 != 3 else 20)
    segments = segments_of(objects, [2])
    assert segments.masks.sum(0).max() <= 1
    # the same pixels have the same class, if stuff is painted as what it is, one segment
    merged = objects.where(objects.class_ids != 2)
    stuff = group_objects(objects.where(objects.class_ids == 2), "class")
    united = Objects.from_masks(objects.size, [*merged.masks, *stuff.masks], [*merged.class_ids, *stuff.class_ids])
    np.testing.assert_array_equal(class_map(segments, background=True), plain_map(united, background=True))
    assert (segments.class_ids == 2).sum() == 1
    assert not segments.is_crowd[segments.class_ids == 2].any()


def test_panoptic_batches_of_instances_have_no_stuff(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path, target="panoptic")
    assert data.stuff_classes == []
    for batch in batches_of(tmp_path, "panoptic"):
        expected = segments_of(make_objects(number_of(batch["name"][0])), [])
        np.testing.assert_array_equal(batch["masks"][0].dense().numpy(), expected.masks)
        assert batch["is_crowd"][0].tolist() == expected.is_crowd.tolist()


def test_prompted_batches_are_squashed_and_hold_no_crowd(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path, target="prompted", img_size=32, batch_size=1)
    data.setup()
    for batch, size in [(b, (32, 32)) for b in data.train_dataloader()] + [
        (b, (HEIGHT, WIDTH)) for b in data.val_dataloader()
    ]:
        objects = make_objects(number_of(batch["name"][0]))
        assert batch["image"].shape == (1, 3, 32, 32)
        assert batch["masks"][0].shape == ((~objects.is_crowd).sum(), *size)
        assert batch["class_ids"][0].tolist() == objects.class_ids[~objects.is_crowd].tolist()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_masks_lie_where_the_image_shows_their_objects(tmp_path: Path, num_workers: int) -> None:
    """Each image tells by its gray values which object is on top."""
    data = KnownObjects(
        tmp_path, target="panoptic", crop_size=(30, 30), scale_range=(1.0, 3.0), color_jitter=False,
        num_workers=num_workers,
    )  # fmt: skip
    data.setup()
    loader, compared = data.train_dataloader(), 0
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["image"].shape == (2, 3, 30, 30)
            assert set(batch) == set(KEYS)
            for image, masks, labels, name in zip(*(batch[key] for key in KEYS), strict=True):
                objects = make_objects(number_of(name))
                assert masks.areas.all()
                for mask, label in zip(masks.dense(), labels.tolist(), strict=True):
                    # inside of an object, away from edges that a resize smooths
                    inner = torch.nn.functional.max_pool2d((~mask)[None].float(), 5, 1, 2)[0] == 0
                    inner &= image[0].float().sub(20).remainder(40) == 0
                    on_top = ((image[0][inner].long() - 20) // 40 - 1).unique().tolist()
                    assert {int(objects.class_ids[index]) for index in on_top} <= {label}
                    compared += int(inner.sum())
    assert compared > 250


def test_samples_of_training_do_not_depend_on_what_is_kept(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path, crop_size=(20, 20))
    first, again = (data.train_dataloader().dataset for _ in range(2))
    for position in (0, 1, 3, 0, 1):
        one, other = first[(position, 5)], again[(position, 5)]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["masks"].dense(), other["masks"].dense())
        again = data.train_dataloader().dataset
    assert len(first[(3, 0)]["masks"]) == 0
    assert pickle.loads(pickle.dumps(data.choose)) is not None


def test_counts_tell_images_and_objects_of_each_class(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path)
    data.setup()
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        labels = [make_objects(number).class_ids.tolist() for number in numbers]
        assert data.counts[split]["images"] == len(labels)
        for class_id, name in enumerate(NAMES):
            assert data.counts[split][name] == sum(class_id in ids for ids in labels)
            assert data.counts[split][f"objects of {name}"] == sum(ids.count(class_id) for ids in labels)


def test_padding_of_a_rank_holds_nothing(tmp_path: Path) -> None:
    for target, key in (("instance", "masks"), ("panoptic", "labels"), ("prompted", "masks")):
        data = KnownObjects(tmp_path, target=target)
        data.trainer = SimpleNamespace(global_rank=2, world_size=3)
        (_, padding) = data.val_dataloader()
        assert padding["name"] == [""]
        assert len(padding[key][0]) == 0


def test_a_seeded_split_is_recorded_and_used_again(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path / "images", is_split=False, split_seed=3)
    assert data.is_split_by_seed
    record = data.split_record
    assert sorted(name for names in record.values() for name in names) == sorted(f"{n}.png" for n in range(12))
    (tmp_path / "splits.json").write_text(json.dumps(record))
    again = KnownObjects(tmp_path / "images", is_split=False, split_seed=4, splits=tmp_path / "splits.json")
    assert again.split_record == record
    with pytest.raises(UserError, match=r"splits: .* is split by its files; leave splits out"):
        KnownObjects(tmp_path / "images", splits=tmp_path / "splits.json").setup()


def test_images_to_predict_come_without_objects(tmp_path: Path) -> None:
    data = KnownObjects(tmp_path / "a")
    batches = list(data.predict_dataloader())
    assert [name for batch in batches for name in batch["name"]] == [f"{number}.png" for number in range(8, 12)]
    assert all(set(batch) == {"image", "name"} for batch in batches)
    prompts = tmp_path / "boxes.csv"
    prompts.write_text("file,x0,y0,x1,y1,label\n3.png,1,1,9,9,bar\n")
    (batch,) = KnownObjects(tmp_path / "a", target="prompted", prompts=prompts).predict_dataloader()
    assert (batch["name"], batch["labels"], batch["class_ids"][0].tolist()) == (["3.png"], [["bar"]], [1])
    one = KnownObjects(tmp_path / "none", predict_path=tmp_path / "a" / "3.png")
    assert [batch["name"] for batch in one.predict_dataloader()] == [["3.png"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, r"crop_size: \[0, 0\]; must be at least 1"),
        ({"img_size": (24, 0)}, r"img_size: \[24, 0\]; must be at least 1"),
        ({"img_size": 8}, "crop_size, img_size: samples of target instance have one size"),
        ({"crop_size": 8, "img_size": 9, "target": "prompted"}, "img_size: samples of target prompted have one size"),
        ({"scale_range": (2.0, 1.0)}, "scale_range: .* give the smaller scale first"),
        ({"repeat_factor_threshold": 0.0}, "repeat_factor_threshold: 0.0; a share"),
        ({"val_fraction": 0.0}, "val_fraction, test_fraction: 0.0, 0.15"),
        ({"class_names": ["a", "a"]}, "class_names: 'a'; names must differ"),
        ({"outliers": "cut"}, "outliers: batches of target instance mark none"),
        ({"batch_size": 9}, "batch_size: 9 on 1 processes is more than the 8 training images"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KnownObjects(tmp_path, **arguments).setup("fit")


def test_a_map_of_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 classes \(disc\); maps of classes have 2 to 255: set background: true"):
        KnownObjects(tmp_path, target="semantic", background=False, class_names=["disc"]).setup("fit")


def test_a_class_that_is_called_background_is_told_from_the_rest(tmp_path: Path) -> None:
    names = ["background", "bar", "sky"]
    with pytest.raises(UserError, match="a class of objects is called background, too; set background: false"):
        KnownObjects(tmp_path, target="semantic", class_names=names).setup("fit")
    assert KnownObjects(tmp_path, target="semantic", class_names=names, background=False).class_names == names


def test_classes_that_a_split_lacks_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = KnownObjects(tmp_path)
    images = data.find_splits()["val"]
    others = [image for image in images if image.name != "8.png"]
    data.find_splits = lambda: {"train": [image for image in images if image.name == "8.png"] * 2, "val": others}
    data.look_at = lambda image: np.array([0, 2] if image.name == "8.png" else [1])  # type: ignore[method-assign]
    monkeypatch.setattr("datamodules.objects.data_module.refuse_overlap", lambda files: None)
    data.setup("fit")
    assert "no training image shows bar, but others do" in caplog.text
    assert "no validation image shows disc, sky: no figure" in caplog.text


def test_training_without_a_size_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crop_size: null; give the height and width"):
        KnownObjects(tmp_path, crop_size=None).train_dataloader()
    # what is cut out is not what whole images are resized to
    with pytest.raises(UserError, match="img_size: null; give the height and width"):
        KnownObjects(tmp_path, target="prompted", img_size=None, crop_size=16).train_dataloader()
