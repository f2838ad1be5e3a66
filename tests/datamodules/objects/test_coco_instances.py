"""COCO's instances against pycocotools, in the layouts of several tools."""

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from datamodules.common.orientation import turned
from datamodules.objects.coco_files import read_coco
from eomt.errors import UserError
from tests.datamodules.objects.coco_data import (
    CATEGORIES,
    HEIGHT,
    NAMES,
    WIDTH,
    coco_instances,
    make_document,
    write_coco,
    write_document,
    write_image,
)

CLASS_OF = {3: 0, 7: 1, 21: 2}


def masks_of(file: Path) -> dict[str, list[tuple[int, bool, np.ndarray]]]:
    """Return class, crowd and mask of each object of each image, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    return {
        image["file_name"]: [
            (CLASS_OF[entry["category_id"]], bool(entry["iscrowd"]), coco.annToMask(entry).astype(bool))
            for entry in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        ]
        for image in coco.dataset["images"]
    }


def check_truth(batches: Any, truth: dict[str, list[tuple[int, bool, np.ndarray]]]) -> list[str]:
    """Compare evaluation batches with the truth and return their names."""
    names = []
    for batch in batches:
        for name, masks, labels, crowds in zip(
            batch["name"], batch["masks"], batch["labels"], batch["is_crowd"], strict=True
        ):
            # a polygon that holds the middle of no pixel has pixels here
            expected = [(c, crowd, m) for c, crowd, m in truth[name]]
            assert [(c, crowd) for c, crowd, _ in expected] == list(zip(labels.tolist(), crowds.tolist(), strict=True))
            for mask, (_, _, known) in zip(masks.dense().numpy(), expected, strict=True):
                assert mask.any()
                if known.any():
                    np.testing.assert_array_equal(mask, known)
            names.append(name)
    return names


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    write_coco(tmp_path, train=24, val=12)
    data = coco_instances(tmp_path)
    data.setup()
    assert data.class_names == NAMES
    truth = masks_of(tmp_path / "annotations" / "instances_val2017.json")
    assert check_truth(data.val_dataloader(), truth) == list(truth)
    # 24 + 12 images, of which every fourth shows nothing
    assert sum(len(objects) for objects in truth.values()) == 36
    truth |= masks_of(tmp_path / "annotations" / "instances_train2017.json")
    for split, counts in data.counts.items():
        shown = [truth[name] for name in data.split_record[split]]
        assert counts["images"] == len(shown)
        for name, class_id in zip(NAMES, range(3), strict=True):
            assert counts[name] == sum(any(c == class_id for c, *_ in objects) for objects in shown)
            assert counts[f"objects of {name}"] == sum(c == class_id for objects in shown for c, *_ in objects)


@pytest.mark.parametrize("target", ["semantic", "instance", "panoptic", "prompted"])
def test_every_target_trains_and_is_evaluated(tmp_path: Path, target: Any) -> None:
    write_coco(tmp_path)
    data = coco_instances(tmp_path, target=target, **{"img_size" if target == "prompted" else "crop_size": 32})
    data.setup("fit")
    assert len([*data.train_dataloader(), *data.val_dataloader()]) == 4 + 4
    assert data.class_names == ["background"] * (target == "semantic") + NAMES


# -- layouts ----------------------------------------------------------------------------------------------------------


def roboflow(path: Path) -> dict[str, list[str]]:
    group = {"id": 0, "name": "cells", "supercategory": "none"}
    members = [{**category, "supercategory": "cells"} for category in CATEGORIES]
    record = {}
    for first, (split, folder) in enumerate((("train", "train"), ("val", "valid"), ("test", "test"))):
        record[split] = [f"a{first}{index}_jpg.rf.{index:032x}.png" for index in range(4)]
        document = make_document(record[split], 4 * first) | {"categories": [group, *members]}
        write_document(path / folder / "_annotations.coco.json", document)
        for index, name in enumerate(record[split]):
            write_image(path / folder / name, 4 * first + index)
    return record


def cvat(path: Path, folder: str = "images") -> dict[str, list[str]]:
    names = [f"frame_{index:06d}.png" for index in range(12)]
    write_document(path / "annotations" / "instances_default.json", make_document(names))
    for index, name in enumerate(names):
        write_image(path / folder / name, index)
    return {"all": names}


def label_studio(
    path: Path, prefix: str = "images/", mark: str = "", on_disk: str = "", signed: str = ""
) -> dict[str, list[str]]:
    names = [f"scan {index}.png" for index in range(12)]
    document = make_document([f"{prefix}{mark}{name}{signed}" for name in names])
    write_document(path / "result.json", document)
    for index, name in enumerate(names):
        write_image(path / "images" / f"{on_disk}{name}", index)
    return {"all": [f"{on_disk}{name}" for name in names]}


LAYOUTS: dict[str, Any] = {
    "roboflow": roboflow,
    "cvat": cvat,
    "cvat, a folder for the subset": lambda path: cvat(path, "images/default"),
    "label studio": label_studio,
    "label studio on windows": lambda path: label_studio(path, "images\\"),
    "label studio with marks": lambda path: label_studio(path, mark="3f2b1c4d-", on_disk="3f2b1c4d-"),
    "label studio with marks that files lack": lambda path: label_studio(path, mark="3f2b1c4d-"),
    "label studio from its own storage": lambda path: label_studio(path, "../../media/upload/1/"),
    "label studio with windows paths": lambda path: label_studio(path, "C:\\data\\"),
    "label studio with signed addresses": lambda path: label_studio(path, "https://x.org/b/", signed="?X-Amz=1"),
    "label studio without folders": lambda path: label_studio(path, ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tools_are_read(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    record = LAYOUTS[layout](tmp_path)
    with caplog.at_level(logging.INFO, logger="eomt"):
        data = coco_instances(tmp_path)
        data.setup("fit")
    assert data.class_names == NAMES
    found = {split: [Path(name).name for name in names] for split, names in data.split_record.items()}
    assert data.is_split_by_seed == ("all" in record)
    if "all" in record:
        assert sorted(name for names in found.values() for name in names) == sorted(record["all"])
    else:
        assert found == record
        assert "cells only stands for others, and is left out" in caplog.text
    assert "left out, for" not in caplog.text
    for batch in data.val_dataloader():
        assert batch["masks"][0].size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("images", ["{split}2017", "images/{split}2017", "images/{split}", "{split}", "images", "."])
def test_images_are_found_where_they_often_lie(tmp_path: Path, images: str) -> None:
    write_coco(tmp_path, images)
    data = coco_instances(tmp_path)
    data.setup("fit")
    truth = masks_of(tmp_path / "annotations" / "instances_val2017.json")
    assert check_truth(data.val_dataloader(), truth) == list(truth)


def test_files_may_be_named(tmp_path: Path) -> None:
    write_coco(tmp_path / "a", "pictures/{split}")
    folder = tmp_path / "a" / "annotations"
    for given in ("train", "val"):
        file = folder / f"instances_{given}2017.json"
        data = coco_instances(tmp_path, annotations=file, images=tmp_path / "a" / "pictures" / given)
        data.setup("fit")
        assert data.is_split_by_seed
    both = {split: folder / f"instances_{split}2017.json" for split in ("train", "val")}
    with pytest.raises(
        UserError, match=r"image id 3: 000000000000.png is not in .*8 of 8 images are not.*--data.images"
    ):
        coco_instances(tmp_path, annotations=both, images=tmp_path / "a" / "pictures" / "val").setup("fit")
    with pytest.raises(UserError, match="annotations: files of test; name those of train and val"):
        coco_instances(tmp_path, annotations={"test": folder})


def test_one_file_is_split_by_a_seed_whatever_it_is_called(tmp_path: Path) -> None:
    write_coco(tmp_path, val=12)
    data = coco_instances(tmp_path, split_seed=1)
    record = data.split_record
    assert {split: len(names) for split, names in record.items()} == {"train": 8, "val": 2, "test": 2}
    (tmp_path / "splits.json").write_text(json.dumps(record))
    assert coco_instances(tmp_path, splits=tmp_path / "splits.json").split_record == record


def test_images_that_no_file_names_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path)
    for name in ("x.png", "y.png"):
        write_image(tmp_path / "train2017" / name, 90)
    with caplog.at_level(logging.WARNING, logger="eomt"):
        coco_instances(tmp_path).setup("fit")
    assert "train2017: 2 images left out, for they are not in" in caplog.text
    assert "x.png, y.png" in caplog.text


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_objects_follow_an_image_that_is_turned(tmp_path: Path, orientation: int) -> None:
    """Pixels of the file are meant; only where the turned size is stated, those of the turned image."""
    for split in ("train", "val"):
        names = [f"{split}{index}.png" for index in range(4)]
        document = make_document(names, 4 * (split == "val"))
        write_document(tmp_path / "annotations" / f"{split}.json", document)
        for index, name in enumerate(names):
            number = index + 4 * (split == "val")
            # the second image was annotated as it is shown
            size = (WIDTH, HEIGHT) if orientation >= 5 and index == 1 else (HEIGHT, WIDTH)
            write_image(tmp_path / "images" / name, number, size, orientation)
    data = coco_instances(tmp_path)
    data.setup("fit")
    truth = masks_of(tmp_path / "annotations" / "val.json")
    for objects, turn in (
        (truth["val0.png"], orientation),
        (truth["val1.png"], 1 if orientation >= 5 else orientation),
    ):
        objects[:] = [(label, crowd, turned(mask, turn)) for label, crowd, mask in objects]
    truth["val3.png"] = [(label, crowd, turned(mask, orientation)) for label, crowd, mask in truth["val3.png"]]
    assert len(check_truth(data.val_dataloader(), truth)) == 4


def test_predicting_from_a_saved_run_needs_no_annotations(tmp_path: Path) -> None:
    write_coco(tmp_path)
    found = coco_instances(tmp_path).found_arguments()
    assert found == {"class_names": NAMES}
    data = coco_instances(tmp_path / "gone", predict_path=tmp_path / "val2017", **found)
    data.setup("predict")
    assert (data.num_classes, len(list(data.predict_dataloader()))) == (3, 4)


def test_class_names_may_order_the_classes_and_files_may_list_different_ones_then(tmp_path: Path) -> None:
    documents = write_coco(tmp_path)
    documents["val"]["categories"] = [{"id": 70, "name": "nucleus"}, *CATEGORIES[::2]]
    for entry in documents["val"]["annotations"]:
        entry["category_id"] = 70 if entry["category_id"] == 3 else entry["category_id"]
    write_document(tmp_path / "annotations" / "instances_val2017.json", documents["val"])
    with pytest.raises(
        UserError, match=r"val2017.json: category id 3 is not there, but in .*train2017.json it is 'nucl"
    ):
        coco_instances(tmp_path).setup("fit")
    data = coco_instances(tmp_path, class_names=["background noise", "cell", "nucleus", "rare"])
    data.setup("fit")
    first = documents["val"]["images"][0]["file_name"]
    (batch,) = [batch for batch in data.val_dataloader() if batch["name"] == [first]]
    image_id = documents["val"]["images"][0]["id"]
    entries = sorted(
        (entry for entry in documents["val"]["annotations"] if entry["image_id"] == image_id),
        key=lambda entry: documents["val"]["annotations"].index(entry),
    )
    assert batch["labels"][0].tolist() == [{70: 2, 7: 1, 21: 0}[entry["category_id"]] for entry in entries]
    with pytest.raises(UserError, match=r"category id 21 \('background noise'\), which image id 3 shows, is not among"):
        coco_instances(tmp_path, class_names=["cell", "nucleus"]).setup("fit")


# -- mistakes ---------------------------------------------------------------------------------------------------------


def changed(change: Any) -> Any:
    def apply(document: dict[str, Any]) -> None:
        entry = next(entry for entry in document["annotations"] if entry["id"] == 307)
        change(document, entry)

    return apply


MISTAKES: dict[str, tuple[Any, str]] = {
    "two points": (lambda d, e: e.update(segmentation=[[1, 2, 3, 4]]), "annotation id 307: a polygon of 4 numbers; it"),
    "odd": (lambda d, e: e.update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation id 307: a polygon of 7 numbers"),
    "no points": (lambda d, e: e.update(segmentation=[[]]), "annotation id 307: a polygon of 0 numbers"),
    "box alone": (lambda d, e: e.update(segmentation=[]), "annotation id 307 has no mask; boxes alone train nothing"),
    "no field": (lambda d, e: e.pop("segmentation"), r"annotation id 307 has no mask; .*--data\.prompts FILE"),
    "outside": (
        lambda d, e: e.update(segmentation=[[90, 2, 99, 2, 99, 9]]),
        r"annotation id 307: point \(99, 2\) is outside of the image of 30 x 44",
    ),
    "far outside": (
        lambda d, e: e.update(segmentation=[[1, 2, 1e30, 2, 9, 9]]),
        r"307: point \(1e\+30, 2\) is outside",
    ),
    "not a number": (
        lambda d, e: e.update(segmentation=[[1, 2, float("nan"), 2, 9, 9]]),
        "annotation id 307: a polygon has the coordinate nan",
    ),
    "other size": (
        lambda d, e: e.update(segmentation={"size": [9, 9], "counts": [81]}),
        r"annotation id 307: run lengths of 9 x 9 \(height x width\) for an image of 30 x 44",
    ),
    "too few pixels": (
        lambda d, e: e.update(segmentation={"size": [HEIGHT, WIDTH], "counts": [1, 2, 3]}),
        "annotation id 307: run lengths of 6 pixels for an image of 30 x 44",
    ),
    "no text": (
        lambda d, e: e.update(segmentation={"size": [HEIGHT, WIDTH], "counts": "~~"}),
        "annotation id 307: counts are no run lengths",
    ),
    "empty": (
        lambda d, e: e.update(segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        "annotation id 307: the mask is empty",
    ),
    "unknown image": (
        lambda d, e: e.update(image_id=4),
        "annotation id 307: image_id 4 is not among the file's images",
    ),
    "unknown category": (
        lambda d, e: e.update(category_id=4),
        "annotation id 307: category_id 4 is not among the file's categories",
    ),
    "annotation twice": (lambda d, e: d["annotations"].append(dict(e)), "annotation id 307 stands there twice"),
    "image twice": (lambda d, e: d["images"].append(dict(d["images"][0])), "image id 3 stands there twice"),
    "category twice": (lambda d, e: d["categories"].append(dict(CATEGORIES[0])), "category id 7 stands there twice"),
    "name twice": (lambda d, e: d["categories"].append({"id": 8, "name": "cell"}), "category id 7: 'cell' has another"),
    "file twice": (
        lambda d, e: d["images"].append(d["images"][0] | {"id": 4}),
        "image id 4: 000000000000.png is the file of image id 3, too",
    ),
    "file twice in other words": (
        lambda d, e: d["images"].append(d["images"][0] | {"id": 4, "file_name": "other/000000000000.png"}),
        "image id 4: other/000000000000.png is the file of image id 3, too",
    ),
    "missing image": (
        lambda d, e: d["images"].append(d["images"][0] | {"id": 4, "file_name": "gone.png"}),
        r"image id 4: gone\.png is not in .*train2017 \(1 of 9 images are not\)",
    ),
    "wrong size": (
        lambda d, e: d["images"][2].update(height=31),
        r"image id 23: 000000000002\.png has 30 x 44 pixels \(height x width\), but 31 x 44 are stated",
    ),
    "large": (
        lambda d, e: d["images"][2].update(height=2**19, width=2**19),
        r"image id 23: 524288 x 524288 pixels \(height x width\); at most",
    ),
    "no name": (
        lambda d, e: d["images"][0].pop("file_name"),
        r"has no images\.0\.file_name \(id 3\); give COCO's JSON",
    ),
    "no annotations": (lambda d, e: d.pop("annotations"), "has no annotations; give COCO's JSON"),
    "a text as a point": (
        lambda d, e: e.update(segmentation=[[1, "2", 3, 4, 5, 6]]),
        r"annotations\.\d+\.segmentation\.0\.1 \(id 307\) is '2', but must be a valid number",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_file_and_id(tmp_path: Path, name: str) -> None:
    change, message = MISTAKES[name]
    documents = write_coco(tmp_path)
    entry = next(entry for entry in documents["train"]["annotations"] if entry["id"] == 307)
    change(documents["train"], entry)
    file = write_document(tmp_path / "annotations" / "instances_train2017.json", documents["train"])
    with pytest.raises(UserError, match=message) as error:
        coco_instances(tmp_path).setup("fit")
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_a_polygon_may_reach_a_little_beyond_the_image_and_be_thinner_than_a_pixel(tmp_path: Path) -> None:
    document = make_document(["a.png"])
    document["annotations"] = [
        {"image_id": 3, "category_id": 7, "segmentation": [[-1, -1, 45, -1, 45, 31, -1, 31]]},
        {"image_id": 3, "category_id": 7, "segmentation": [[4.1, 5.1, 4.2, 5.1, 4.2, 5.2]]},
    ]
    (image,) = read_coco(write_document(tmp_path / "a.json", document)).images
    write_image(tmp_path / "a.png", 0)
    data = coco_instances(tmp_path)
    (found,) = data.find_splits()["all"]
    assert found.annotation.objects((HEIGHT, WIDTH), 1).areas.tolist() == [HEIGHT * WIDTH, 1]
    assert image.category_ids == (7, 7)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"path: .* holds no JSON file, nor do its folders annotations, train, val \(valid\) and test"),
        (["annotations/a.json", "annotations/b.json"], r"annotations/a\.json: names no split; leave one file for each"),
        (["train/a.json", "training/b.json"], r"training/b\.json: is of the train split, and so is .*train/a\.json"),
        (["annotations/train.json", "annotations/test.json"], "and none of the val split; add it, or let a seed"),
        (["train/a.json", "test/b.json"], "and none of the val split"),
    ],
)
def test_files_that_are_missing_or_too_many_are_told(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        write_document(tmp_path / file, make_document([]))
    with pytest.raises(UserError, match=message):
        coco_instances(tmp_path).setup("fit")


def test_other_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"path: .*nowhere is not a folder; give the one with annotations and images"):
        coco_instances(tmp_path / "nowhere").setup("fit")
    write_coco(tmp_path)
    with pytest.raises(UserError, match=r"images: .*nowhere is not a folder"):
        coco_instances(tmp_path, images=tmp_path / "nowhere").setup("fit")
    write_document(tmp_path / "none.json", make_document([]))
    with pytest.raises(UserError, match=r"none\.json: has no annotations; give one of annotated images"):
        coco_instances(tmp_path, annotations=tmp_path / "none.json").setup("fit")
