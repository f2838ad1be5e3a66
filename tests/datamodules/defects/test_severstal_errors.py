"""What is wrong with a data set of defects is said in one line, before training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import Severstal
from datamodules.defects.layouts import SEVERSTAL_CLASSES, find_layout
from datamodules.defects.supervisely import read_titles
from eomt.errors import UserError
from tests.datamodules.defects.defect_files import (
    HEIGHT,
    WIDTH,
    described,
    severstal,
    write_json,
    write_kaggle,
    write_masks,
    write_supervisely,
)


def append_row(row: str) -> Any:
    def spoil(path: Path) -> None:
        with (path / "train.csv").open("a") as file:
            file.write(row + "\n")

    return spoil


def spoil_columns(path: Path) -> None:
    (path / "train.csv").write_text("name,rle\n")


def remove_images(path: Path) -> None:
    (path / "train_images").rename(path / "pictures")


def spoil_image(path: Path) -> None:
    for file in (path / "train_images").iterdir():
        file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (append_row("im_00.png,7,1 2"), {}, r"train\.csv: row 6: class '7'; must be 1 to 4"),
        (append_row("im_00.png,x,1 2"), {}, r"train\.csv: row 6: class 'x'; must be 1 to 4"),
        (append_row("im_00.png,3,1 2"), {"class_names": ["a", "b"]}, r"row \d+: class '[34]'; must be 1 to 2"),
        (append_row("gone.png,1,1 2"), {}, r"train\.csv: row 6: no image .*gone\.png"),
        (append_row("im_00.png,1,640 2"), {}, r"train\.csv: row 6: the run 640 2 ends at pixel 641"),
        (append_row("im_00.png,1,640 1 3"), {}, r"train\.csv: row 6: 3 run values, an odd number"),
        (spoil_columns, {}, r"train\.csv: columns name, rle; must be ImageId,ClassId,EncodedPixels"),
        (remove_images, {}, "train_images: no such folder"),
        (spoil_image, {}, r"\.png: cannot be read"),
        (None, {"batch_size": 9}, "batch_size: 9 on 1 processes is more than the"),
    ],
)
def test_errors_in_a_table_are_found_before_training(
    tmp_path: Path, spoil: Any, arguments: dict[str, Any], message: str
) -> None:
    # images 0 and 2 of three show one class, image 1 shows two: the added row is the sixth, with the header
    write_kaggle(tmp_path, 3)
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        severstal(tmp_path, **({"val_fraction": 0.3, "test_fraction": 0.0} | arguments)).setup("fit")
    assert "\n" not in str(caught.value)


def remove_annotation(path: Path) -> None:
    (path / "train" / "ann" / "1.png.json").unlink()


def remove_one_image(path: Path) -> None:
    (path / "train" / "img" / "1.png").unlink()


def remove_val(path: Path) -> None:
    (path / "val").rename(path / "validation")


def spoil_title(path: Path) -> None:
    write_json(
        path / "train" / "ann" / "1.png.json", [described("rust", np.ones((2, 2), bool), [0, 0])], (HEIGHT, WIDTH)
    )


def spoil_origin(path: Path) -> None:
    objects = [described("defect_1", np.ones((2, 2), bool), [39, 0])]
    write_json(path / "train" / "ann" / "1.png.json", objects, (HEIGHT, WIDTH))


def remove_layout(path: Path) -> None:
    (path / "val" / "ann").rename(path / "val" / "annotations")


@pytest.mark.parametrize(
    ("spoil", "arguments", "message"),
    [
        (remove_annotation, {}, r"img/1\.png: no .*ann/1\.png\.json"),
        (remove_one_image, {}, r"ann/1\.png\.json: no image in img belongs to it"),
        (remove_val, {}, "val: no such folder, nor val_split"),
        (remove_layout, {}, "val: holds neither"),
        (spoil_title, {"class_names": ["defect_1", "defect_2", "defect_3", "defect_4"]}, "unknown class 'rust'"),
        (spoil_origin, {}, r"ann/1\.png\.json: object 0: a bitmap of 2 x 2 .* leaves the image"),
        (None, {"splits": "splits.json"}, "splits: .* is split by its folders"),
    ],
)
def test_errors_in_folders_are_found_before_training(
    tmp_path: Path, spoil: Any, arguments: dict[str, Any], message: str
) -> None:
    write_supervisely(tmp_path / "train", range(3))
    write_supervisely(tmp_path / "val", range(8, 10))
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        severstal(tmp_path, **arguments).setup("fit")
    assert "\n" not in str(caught.value)


def test_errors_in_plain_masks_are_explained(tmp_path: Path) -> None:
    write_masks(tmp_path, range(3), value=9)
    with pytest.raises(UserError, match=r"masks: values 9 beside the background 0; store the classes as 1, 2, 3"):
        _ = severstal(tmp_path).class_names
    with pytest.raises(UserError, match=r"masks/0\.png: value 9; must be 0 \(background\) to 2"):
        severstal(tmp_path, class_names=["a", "b"]).setup("fit")
    with pytest.raises(UserError, match=r"path: .*nowhere is not a folder"):
        severstal(tmp_path / "nowhere").setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"num_workers": -1}, "num_workers: -1"),
        ({"img_size": (0, 8)}, r"img_size: \[0, 8\]"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"class_names": ["a", "a"]}, "class_names: 'a'"),
    ],
)
def test_impossible_fields_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Severstal("data", **arguments)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("ClassId,EncodedPixels,ImageId", "2", r"row 2: ImageId 'nothing'; must name an image"),
        ("EncodedPixels,ImageId_ClassId", "1 2", r"row 2: ImageId_ClassId 'nothing'"),
        (
            "ImageId_ClassId,EncodedPixels",
            "a.jpg,3 10",
            r"row 2: ImageId_ClassId 'a.jpg'; must name an image and a class",
        ),
        ("ImageId,ClassId,EncodedPixels", "a.jpg,7,", r"row 2: class '7'; must be 1 to 4"),
        ("ImageId,ClassId,EncodedPixels", "a.jpg,1,3 10 4", r"row 2: 3 run values, an odd number"),
    ],
)
def test_a_bad_row_is_found_whichever_split_its_image_falls_into(
    tmp_path: Path, header: str, row: str, message: str
) -> None:
    (tmp_path / "train_images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "train_images" / "a.jpg")
    (tmp_path / "train.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(UserError, match=message):
        find_layout(tmp_path).samples(SEVERSTAL_CLASSES)


def test_a_title_beside_severstals_is_a_mistake_and_shifts_nothing(tmp_path: Path) -> None:
    for folder in ("img", "ann"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "img" / "a.jpg")
    objects = [{"classTitle": title} for title in ("defect_1", "defct_2")]
    content = {"size": {"height": 32, "width": 64}, "objects": objects}
    (tmp_path / "ann" / "a.jpg.json").write_text(json.dumps(content))
    layout = find_layout(tmp_path)
    assert layout.class_names(layout.labels()) == list(SEVERSTAL_CLASSES)
    with pytest.raises(UserError, match=r"a.jpg.json: object 1: unknown class 'defct_2'"):
        layout.samples(SEVERSTAL_CLASSES)


def test_smooth_masks_are_not_taken_for_many_classes(tmp_path: Path) -> None:
    """15.6: every gray of a smooth edge would be a class; here they are 1 to 255 without a gap."""
    write_masks(tmp_path, range(3))
    ramp = np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(ramp).save(tmp_path / "masks" / "0.png")
    layout = find_layout(tmp_path)
    with pytest.raises(UserError, match=r"masks: 2.. of 255 labels in the masks fill no area, .*smooth or lossy"):
        layout.class_names(layout.labels())


def test_json_without_size_is_found_in_every_split(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"objects": []}))
    with pytest.raises(UserError, match="size"):
        read_titles(file)
