import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageMaskFolder
from datamodules.class_maps import ADE20K_LABELS, ADE20K_NAMES, COCO_PANOPTIC_CATEGORIES, COCO_PANOPTIC_NAMES
from datamodules.common.orientation import turned
from datamodules.objects.coco_panoptic import CocoPanoptic
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_pair

# category ids have gaps and come in no order
CATEGORIES = [
    {"id": 200, "name": "rug", "isthing": 1},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 92, "name": "banner", "isthing": 0},
]
# segment id -> category id; ids beyond 255 and 65535 use all three colors
SEGMENTS = {5: 1, 300: 92, 70000: 1, 16777215: 200}
IDS = np.array([[5, 5, 300, 300], [0, 70000, 70000, 16777215]])
CLASS_IDS = [[0, 0, 1, 1], [255, 0, 0, 2]]


def write_coco(path: Path, categories: list[dict[str, Any]] = CATEGORIES) -> Path:
    for split, number in {"train": 3, "val": 1}.items():
        images, masks = path / f"{split}2017", path / "annotations" / f"panoptic_{split}2017"
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        annotations = []
        for index in range(number):
            Image.fromarray(np.zeros((2, 4, 3), dtype=np.uint8)).save(images / f"{index:012d}.jpg")
            colors = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], axis=-1)
            Image.fromarray(colors.astype(np.uint8)).save(masks / f"{index:012d}.png")
            segments = [
                {"id": segment, "category_id": category, "area": int((segment == IDS).sum())}
                for segment, category in SEGMENTS.items()
            ]
            # image ids are no positions either
            annotations.append({"image_id": 900 - index, "file_name": f"{index:012d}.png", "segments_info": segments})
        content = {
            "images": [{"id": 900 - index, "file_name": f"{index:012d}.jpg"} for index in range(number)],
            "annotations": annotations[::-1],
            "categories": categories,
        }
        (path / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))
    return path


def coco(path: Path, **arguments: Any) -> CocoPanoptic:
    return CocoPanoptic(str(path), batch_size=2, crop_size=(2, 4), num_workers=0, **arguments)


def changed(path: Path, change: Any, split: str = "train") -> None:
    file = path / "annotations" / f"panoptic_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_segments_become_the_ranks_of_their_category_ids(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path))
    (batch,) = data.val_dataloader()
    assert batch["mask"].tolist() == [CLASS_IDS]
    assert (data.num_classes, data.class_names) == (3, ["person", "banner", "rug"])
    assert batch["name"] == ["000000000000.jpg"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_segments_are_turned_with_their_image(tmp_path: Path, orientation: int) -> None:
    """15.7: a PNG file of segments holds no orientation of its own."""
    data = coco(write_coco(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((2, 4, 3), dtype=np.uint8)).save(
        tmp_path / "val2017" / "000000000000.jpg", exif=exif.tobytes()
    )
    (batch,) = data.val_dataloader()
    assert batch["mask"][0].tolist() == turned(np.array(CLASS_IDS), orientation).tolist()


def test_training_reads_the_same_classes_and_counts_come_from_the_json_file(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path), scale_range=(1.0, 1.0), flip=False)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["mask"].tolist() == [CLASS_IDS, CLASS_IDS]
    objects = {"objects of person": 6, "objects of banner": 3, "objects of rug": 3}
    assert data.counts["train"] == {"images": 3, "person": 3, "banner": 3, "rug": 3} | objects
    assert data.split_record["train"] == [f"{index:012d}.jpg" for index in range(3)]


def crowd(content: dict[str, Any]) -> None:
    """Make a crowd of the second person, and two segments of the banner."""
    for annotation in content["annotations"]:
        annotation["segments_info"][2]["iscrowd"] = 1
        annotation["segments_info"][3]["category_id"] = 92


def test_things_stay_apart_and_stuff_is_one_segment(tmp_path: Path) -> None:
    changed(write_coco(tmp_path), crowd, "val")
    changed(tmp_path, crowd)
    data = coco(tmp_path, target="panoptic", scale_range=(1.0, 1.0), flip=False, color_jitter=False)
    assert (data.class_names, data.stuff_classes) == (["person", "banner", "rug"], [1])
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert batch["labels"][0].tolist() == [0, 0, 1]
    assert batch["is_crowd"][0].tolist() == [False, True, False]
    masks = [IDS == 5, IDS == 70000, (IDS == 300) | (IDS == 16777215)]
    np.testing.assert_array_equal(batch["masks"][0].dense().numpy(), np.stack(masks))
    for batch in data.train_dataloader():
        for masks_of_image, labels in zip(batch["masks"], batch["labels"], strict=True):
            assert labels.tolist() == [0, 1]
            np.testing.assert_array_equal(masks_of_image.dense().numpy(), np.stack([masks[0], masks[2]]))


def test_instances_are_things_alone(tmp_path: Path) -> None:
    data = coco(write_coco(tmp_path), target="instance")
    assert (data.class_names, data.stuff_classes) == (["person", "rug"], [])
    data.setup("fit")
    assert data.counts["val"] == {"images": 1, "person": 1, "objects of person": 2, "rug": 1, "objects of rug": 1}
    (batch,) = data.val_dataloader()
    assert batch["labels"][0].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(
        batch["masks"][0].dense().numpy(), np.array([5, 70000, 16777215])[:, None, None] == IDS
    )


def test_a_saved_run_needs_no_files_to_predict(tmp_path: Path) -> None:
    found = coco(write_coco(tmp_path), target="panoptic").found_arguments()
    assert found == {"class_names": ["person", "banner", "rug"], "stuff_classes": [1]}
    data = coco(tmp_path / "gone", target="panoptic", predict_path=tmp_path / "val2017", **found)
    assert (data.num_classes, data.stuff_classes, len(list(data.predict_dataloader()))) == (3, [1], 1)


def test_validation_needs_no_training_file(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "panoptic_train2017.json").unlink()
    data = coco(tmp_path)
    data.setup("validate")
    assert len(list(data.val_dataloader())) == 1


def test_a_segment_that_the_json_file_lacks_is_refused(tmp_path: Path) -> None:
    changed(write_coco(tmp_path), lambda content: content["annotations"][0]["segments_info"].pop())
    with pytest.raises(UserError, match=r"000002\.png: segment 16777215 \(1 pixels\) is not in .*train2017\.json"):
        list(coco(tmp_path, repeat_factor_threshold=1.0).train_dataloader())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["annotations"][0]["segments_info"][1].update(category_id=2),
            r"train2017\.json: 000000000002\.png: category 2 \(2 pixels\) is not among",
        ),
        (lambda content: content["categories"].append({"id": 7, "name": "sheep"}), "other categories than"),
        (lambda content: content.pop("images"), "has no images; it is not in COCO's panoptic format"),
        (lambda content: content["images"][0].update(file_name="lost.jpg"), r"lost\.jpg: no such file, but .*\(1 of 3"),
    ],
)
def test_errors_in_the_json_file_are_found_before_training(tmp_path: Path, change: Any, message: str) -> None:
    changed(write_coco(tmp_path), change)
    with pytest.raises(UserError, match=message) as error:
        coco(tmp_path).setup("fit")
    assert "\n" not in str(error.value)


def test_class_maps_agree_with_the_data_sets_documents() -> None:
    assert (len(ADE20K_NAMES), len(set(ADE20K_NAMES))) == (150, 150)
    assert [ADE20K_LABELS[label] for label in (0, 1, 13, 150)] == [255, 0, 12, 149]
    assert [ADE20K_NAMES[index] for index in (0, 12, 149)] == ["wall", "person", "flag"]
    assert (len(COCO_PANOPTIC_NAMES), len(set(COCO_PANOPTIC_NAMES))) == (133, 133)
    assert sum(category <= 90 for category in COCO_PANOPTIC_CATEGORIES) - 1 == 80
    pairs = {1: "person", 13: "stop sign", 90: "toothbrush", 92: "banner", 149: "road", 184: "tree-merged"}
    for category, name in (pairs | {200: "rug-merged"}).items():
        assert COCO_PANOPTIC_NAMES[COCO_PANOPTIC_CATEGORIES[category]] == name
    assert list(COCO_PANOPTIC_CATEGORIES) == sorted(COCO_PANOPTIC_CATEGORIES)


def test_a_named_class_map_brings_its_names(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 2, 150]], dtype=np.uint8)
    for split in ("train", "val"):
        write_pair(tmp_path / split, "0.png", mask)
    data = ImageMaskFolder(str(tmp_path), num_workers=0, class_map="ade20k")
    (batch,) = data.val_dataloader()
    assert batch["mask"].tolist() == [[[255, 0, 1, 149]]]
    assert (data.num_classes, data.class_names[149]) == (150, "flag")


def test_files_are_found_by_any_spelling_of_their_names(tmp_path: Path) -> None:
    """15.28"""
    write_coco(tmp_path)
    for folder in (tmp_path / "train2017", tmp_path / "annotations" / "panoptic_train2017"):
        for file in folder.iterdir():
            file.rename(file.with_suffix(file.suffix.upper()))
    data = coco(tmp_path)
    data.setup("fit")
    assert data.counts["train"]["images"] == 3


def test_images_may_lie_where_datumaro_writes_them(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "images").mkdir()
    for split, name in {"train": "Train", "val": "Validation"}.items():
        (tmp_path / f"{split}2017").rename(tmp_path / "images" / name)
        (tmp_path / "annotations" / f"panoptic_{split}2017").rename(tmp_path / "annotations" / f"panoptic_{name}")
        file = tmp_path / "annotations" / f"panoptic_{split}2017.json"
        file.rename(file.with_name(f"panoptic_{name}.json"))
    data = coco(tmp_path)
    data.setup("fit")
    assert [data.counts[split]["images"] for split in ("train", "val")] == [3, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].append({"id": 92, "name": "other"}), "category id 92 stands there twice"),
        (lambda c: c["images"].append(c["images"][0] | {"file_name": "x.jpg"}), "image id 900 stands there twice"),
        (lambda c: c["annotations"].append(c["annotations"][-1]), "annotation of image id 900 stands there twice"),
        (
            lambda c: c["annotations"][-1]["segments_info"].append({"id": 5, "category_id": 92, "area": 2}),
            r"000000000000\.png: segment 5 stands there twice",
        ),
    ],
)
def test_what_stands_there_twice_is_named(tmp_path: Path, change: Any, message: str) -> None:
    changed(write_coco(tmp_path), change)
    with pytest.raises(UserError, match=message):
        coco(tmp_path).find_splits()
