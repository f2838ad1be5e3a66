from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.objects.yolo_files import read_yolo
from datamodules.objects.yolo_segmentation import YoloSegmentation
from eomt.errors import UserError

SQUARE = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


def write_image(file: Path, size: tuple[int, int] = (8, 12)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(file.name)))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)


def write_yolo(folder: Path, text: str = SQUARE, description: str = "train: images\nnames: [cell, crack]\n") -> Path:
    """Write two images, of which b shows nothing."""
    for name in ("a", "b"):
        write_image(folder / "images" / f"{name}.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(text)
    (folder / "data.yaml").write_text(description)
    return folder


def test_a_polygon_is_filled_and_an_image_without_a_file_shows_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="eomt"):
        found = read_yolo(write_yolo(tmp_path))
    assert "1 image without a label file" in caplog.text
    first, second = found.splits["train"]
    assert (first.name, first.classes, second.name, second.classes) == ("a.png", {0}, "b.png", frozenset())
    expected = np.zeros((8, 12), dtype=bool)
    expected[2:6, 3:9] = True
    np.testing.assert_array_equal(first.annotation.objects((8, 12), 1).masks, expected[None])
    assert len(second.annotation.objects((8, 12), 1)) == 0


@pytest.mark.parametrize(
    ("description", "names"),
    [
        ("train: images\nnames: {0: cell, 1: crack}", ["cell", "crack"]),
        ("path: gone/away\ntrain: ../images\nnames: [cell, 7]", ["cell", "7"]),
        ("path: .\ntrain: [images]\nnc: 2\nnames: [cell, crack]", ["cell", "crack"]),
        ("train: list.txt\nnames: [cell, crack]", ["cell", "crack"]),
        ("names: [cell, crack]", ["cell", "crack"]),
    ],
)
def test_descriptions_of_all_tools_are_understood(tmp_path: Path, description: str, names: list[str]) -> None:
    write_yolo(tmp_path, description=description)
    (tmp_path / "list.txt").write_text("./images/a.png\ndata/images/b.png\n\n")
    found = read_yolo(tmp_path)
    assert found.class_names == names
    (images,) = found.splits.values()
    assert [image.name for image in images] == ["a.png", "b.png"]


def test_splits_are_those_that_are_named(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_image(tmp_path / split / "images" / f"{split}.png")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{split}.txt").write_text(SQUARE)
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cell]\n"
    (tmp_path / "data.yaml").write_text(text)
    data = YoloSegmentation(tmp_path / "data.yaml", batch_size=1, num_workers=0)
    assert data.split_record == {"train": ["train.png"], "val": ["valid.png"], "test": ["test.png"]}


def test_labels_may_lie_beside_their_images(tmp_path: Path) -> None:
    write_image(tmp_path / "all" / "a.png")
    (tmp_path / "all" / "a.txt").write_text(SQUARE)
    (tmp_path / "data.yaml").write_text("train: all\nnames: [cell]\n")
    assert read_yolo(tmp_path).splits["train"][0].classes == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1 0.1\n", r"a\.txt: line 1: a box, without the outline.*SAM 2.*docs/prompted\.md"),
        (f"{SQUARE}\n2 0 0 1 0 1 1\n", r"a\.txt: line 3: class 2; .*2 classes, 0 to 1"),
        ("0.5 0 0 1 0 1 1\n", r"line 1: class 0\.5"),
        ("0 0 0 12 0 12 8\n", r"line 1: coordinate 12; YOLO's are shares"),
        ("0 0 0 nan 0 1 1\n", r"line 1: coordinate nan"),
        ("0 0 0 1 0 1 1 1\n", r"line 1: 8 numbers"),
        ("cell 0 0 1 0 1 1\n", r"line 1: 'cell 0 0 1 0 1 1'; must be a class and x y"),
    ],
)
def test_lines_that_are_no_polygon_are_named(tmp_path: Path, text: str, message: str) -> None:
    write_yolo(tmp_path, text)
    with pytest.raises(UserError, match=message):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("train: images\n", r"data\.yaml: names no classes"),
        ("train: images\nnames: {0: a, 2: b}\n", r"names has the ids 0, 2; must be 0 to 1"),
        ("train: pictures\nnames: [a]\n", r"'pictures' is no folder and no list"),
        ("train: list.txt\nnames: [a]\n", r"list\.txt: line 1: no image"),
        ("names: [a\n", r"data\.yaml: cannot be read as YAML"),
        ("train: 7\nnames: [a]\n", r"data\.yaml: train"),
    ],
)
def test_descriptions_that_cannot_be_used_are_named(tmp_path: Path, description: str, message: str) -> None:
    write_yolo(tmp_path, description=description)
    (tmp_path / "list.txt").write_text("images/gone.png\n")
    with pytest.raises(UserError, match=message):
        read_yolo(tmp_path)


def test_label_files_without_an_image_and_with_two_are_named(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "c.txt").write_text(SQUARE)
    with pytest.raises(UserError, match=r"labels/c\.txt: no image belongs to it \(1 of 2 label files"):
        read_yolo(tmp_path)
    (tmp_path / "labels" / "c.txt").unlink()
    write_image(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match=r"shares its label file"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    "description",
    [
        "train: train/images\nvalid: valid/images\nnames: [cell, crack]",
        "Train: train/images\nValidation: valid/images\nnames: [cell, crack]",
        "names: [cell, crack]",
    ],
)
def test_splits_have_the_names_that_tools_give_them(tmp_path: Path, description: str) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / split / "images" / f"{split}.png")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{split}.txt").write_text(SQUARE)
    (tmp_path / "data.yaml").write_text(description)
    found = read_yolo(tmp_path).splits
    assert {split: [image.name for image in images] for split, images in found.items()} == {
        "train": ["train.png"],
        "val": ["valid.png"],
    }


def test_a_number_of_classes_that_is_not_that_of_the_names_is_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path, description="train: images\nnc: 3\nnames: [cell, crack]\n")
    with pytest.raises(UserError, match=r"data\.yaml: nc is 3, but names has 2 names"):
        read_yolo(tmp_path)


def test_images_that_no_list_names_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(tmp_path, description="train: list.txt\nnames: [cell, dirt]\n")
    (tmp_path / "list.txt").write_text("./images/a.png\n")
    with caplog.at_level("WARNING", logger="eomt"):
        assert [image.name for image in read_yolo(tmp_path).splits["train"]] == ["a.png"]
    assert any("do not name 1 of 2 images" in line and "b.png" in line for line in caplog.messages)
