"""Folders of classes and tables of labels: what is found, how it is split, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules import ImageFolder
from datamodules.classification.dataset import LabeledImages
from datamodules.classification.transforms import shown
from eomt.errors import UserError
from eomt.tasks.data import LabelData
from tests.tiny_classification import COLORS, write_classes, write_photo

NAMES = sorted(COLORS)


def image_folder(path: Path, **arguments: Any) -> ImageFolder:
    common: dict[str, Any] = {"batch_size": 4, "num_workers": 0, "img_size": 16}
    return ImageFolder(path, **(common | arguments))


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        image_folder(path, **arguments).setup()
    return str(error.value)


def write_splits(folder: Path) -> Path:
    for number, split in enumerate(("train", "val", "test")):
        write_classes(folder / split, 4, seed=1000 * number)
    return folder


def write_table(folder: Path, text: str) -> Path:
    for number, color in enumerate(NAMES * 4):
        write_photo(folder / f"{number}.png", color, number)
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def test_classes_are_split_in_proportion_and_always_alike(tmp_path: Path) -> None:
    write_classes(tmp_path, 20)
    (tmp_path / "red" / "deeper").mkdir()
    write_photo(tmp_path / "red" / "deeper" / "a.PNG", "red", 999)
    data = image_folder(tmp_path, val_fraction=0.2, test_fraction=0.1)
    data.setup()
    assert (data.class_names, data.is_multi_label(), data.is_split_by_seed) == (NAMES, False, True)
    assert isinstance(data, LabelData)
    assert data.counts["val"] == {"images": 12} | dict.fromkeys(NAMES, 4)
    assert sum(data.counts[split]["images"] for split in data.counts) == 61
    assert "red/deeper/a.PNG" in {name for names in data.split_record.values() for name in names}
    again = image_folder(tmp_path, val_fraction=0.2, test_fraction=0.1)
    assert again.split_record == data.split_record
    assert image_folder(tmp_path, split_seed=1).split_record != data.split_record
    assert data.label_counts() == [data.counts["train"][name] for name in NAMES]


def test_a_batch_holds_what_the_files_show(tmp_path: Path) -> None:
    data = image_folder(write_splits(tmp_path), augment=False)
    data.setup()
    assert not data.is_split_by_seed
    batches = list(data.test_dataloader())
    labels = torch.cat([batch["label"] for batch in batches]).tolist()
    # the classes in turn
    assert sorted(labels[:3]) == [0, 1, 2]
    for batch in batches:
        for name, image, label in zip(batch["name"], batch["image"], batch["label"], strict=True):
            pixels = pil_to_tensor(Image.open(tmp_path / name))
            assert torch.equal(image, shown(pixels, (16, 16)))
            assert name.split("/")[:2] == ["test", NAMES[label]]
    (padded,) = [data.test_dataloader().dataset[-1]]
    assert (padded["name"], int(padded["label"])) == ("", 0)


def test_orientation_gray_and_transparent_images_are_read_as_everywhere(tmp_path: Path) -> None:
    write_classes(tmp_path, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "red" / "gray.png")
    Image.fromarray(np.stack([pixels] * 3, 2)).save(tmp_path / "red" / "turned.png", exif=exif)
    Image.fromarray(np.stack([pixels] * 4, 2)).save(tmp_path / "blue" / "clear.png")
    data = image_folder(tmp_path)
    data.setup()
    found = {image.name: image for part in data._splits().values() for image in part}
    samples = LabeledImages([found["red/gray.png"], found["red/turned.png"]], (20, 20), data._targets())
    assert torch.equal(samples[0]["image"][0], shown(torch.from_numpy(pixels)[None], (20, 20))[0])
    turned = torch.from_numpy(np.rot90(pixels, -1).copy())[None]
    assert torch.equal(samples[1]["image"][:1], shown(turned, (20, 20)))
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "red" / "deep.png")
    assert "deep.png: grayscale image of more than 8 bits" in refused(tmp_path)


def test_random_changes_follow_from_their_seed_alone(tmp_path: Path) -> None:
    data = image_folder(write_splits(tmp_path))
    data.setup("fit")
    dataset: Any = data.train_dataloader().dataset
    first, again, other = (dataset[index]["image"] for index in ((0, 7), (0, 7), (0, 8)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 16, 16)
    state = torch.get_rng_state()
    dataset[0, 1]
    assert torch.equal(torch.get_rng_state(), state)
    assert (data.repeats_images, image_folder(tmp_path, augment=False).repeats_images) == (False, True)


def test_balanced_batches_have_all_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, 6)
    for number in range(40):
        write_photo(tmp_path / "red" / f"more{number}.png", "red", 5000 + number)
    data = image_folder(tmp_path, balanced=True, batch_size=6)
    data.setup("fit")
    for batch in data.train_dataloader():
        assert batch["label"].bincount().tolist() == [2, 2, 2]


def test_plain_images_are_spread_over_each_class(tmp_path: Path) -> None:
    data = image_folder(write_splits(tmp_path))
    labels = torch.cat([label for _, label in data.plain_images("train", 2)])
    assert labels.bincount().tolist() == [2, 2, 2]
    assert sum(len(image) for image, _ in data.plain_images("val", None)) == 12


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_says_labels_and_splits(tmp_path: Path) -> None:
    rows = [f"{n}.png,{NAMES[n % 3]},{'train' if n < 6 else 'val' if n < 9 else 'test'}\n" for n in range(12)]
    data = image_folder(write_table(tmp_path, "path,label,split\n" + "".join(rows)))
    data.setup()
    assert data.split_record["val"] == ["6.png", "7.png", "8.png"]
    assert not data.is_split_by_seed


@pytest.mark.parametrize("form", ["separator", "columns"])
def test_images_with_several_labels(tmp_path: Path, form: str) -> None:
    marks = [(n % 2, n % 3 == 0, n % 4 == 0) for n in range(12)]
    if form == "columns":
        rows = [f"{n}.png,{int(a)},{int(b)},{int(c)}\n" for n, (a, b, c) in enumerate(marks)]
        text, arguments = "path,odd,third,fourth\n" + "".join(rows), {}
        names = ["odd", "third", "fourth"]
    else:
        labels = [[name for name, mark in zip("otf", row, strict=True) if mark] for row in marks]
        rows = [f"{n}.png,{'|'.join(row)}\n" for n, row in enumerate(labels)]
        text, arguments = "path,label\n" + "".join(rows), {"label_separator": "|"}
        names = ["f", "o", "t"]
    data = image_folder(write_table(tmp_path, text), **arguments)  # type: ignore[arg-type]
    data.setup()
    assert (data.class_names, data.is_multi_label()) == (names, True)
    order = [0, 1, 2] if form == "columns" else [2, 0, 1]
    for batch in data.val_dataloader():
        for name, label in zip(batch["name"], batch["label"], strict=True):
            expected = marks[int(name.removesuffix(".png"))]
            assert label.dtype == torch.float32
            assert label.tolist() == [float(expected[place]) for place in order]
    with pytest.raises(UserError, match="balanced: true, and images have several labels"):
        image_folder(tmp_path / "labels.csv", balanced=True, **arguments).setup("fit")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n0.png,red\n99.png,blue\n", "row 3: no image"),
        ("path,label\n0.png,red\n1.png,\n", "row 3: no label"),
        ("path,label\n0.png,red\n0.png,blue\n", "row 3: 0.png stands in row 2 already"),
        ("path,label,split\n0.png,red,dev\n", "row 2: split 'dev'; must be train, val, test"),
        ("path,label,split\n0.png,red,train\n1.png,blue,\n", "row 3: no split, where other rows have one"),
        ("path,a,b\n0.png,1,yes\n", "row 2: 'yes' in column b; must be 0 or 1"),
        ("path,a,b\n0.png,1,0\n", "no row has a 1 in column b"),
        ("path\n0.png\n", "columns path; must have path and label"),
        ("path,label\n0.png,red\n1.png,red\n", "images of 1 class (red)"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, text: str, said: str) -> None:
    message = refused(write_table(tmp_path, text))
    assert "labels.csv: " in message
    assert said in message


# -- what is refused or said -----------------------------------------------------------------------------------------


def test_the_same_image_in_two_classes_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "blue" / "copy.png").write_bytes((tmp_path / "red" / "0.png").read_bytes())
    message = refused(tmp_path)
    assert "is a copy of" in message
    assert "of another class (red and blue)" in message


def test_the_same_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    write_splits(tmp_path)
    (tmp_path / "val" / "red" / "copy.png").write_bytes((tmp_path / "train" / "red" / "0.png").read_bytes())
    assert "in val, is a copy of" in refused(tmp_path)


def test_copies_stay_together_in_a_seeded_split(tmp_path: Path) -> None:
    write_classes(tmp_path)
    for number in range(6):
        (tmp_path / "red" / f"copy{number}.png").write_bytes((tmp_path / "red" / f"{number}.png").read_bytes())
    record = image_folder(tmp_path).split_record
    for names in record.values():
        assert {name for name in names if "copy" in name} == {
            f"red/copy{name[4:]}" for name in names if name.startswith("red/") and "copy" not in name
        }


def test_a_class_of_one_image_and_a_class_without_training_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "seeded")
    write_photo(tmp_path / "seeded" / "rare" / "0.png", "red", 77)
    assert "1 different image of class 'rare'; a seeded split into train, val, test needs 3" in refused(
        tmp_path / "seeded"
    )
    write_splits(tmp_path / "given")
    write_photo(tmp_path / "given" / "val" / "rare" / "0.png", "red", 77)
    assert "no training image of class 'rare' (1 in val)" in refused(tmp_path / "given")


def test_a_class_that_is_trained_and_not_measured_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_splits(tmp_path)
    write_photo(tmp_path / "train" / "rare" / "0.png", "red", 77)
    with caplog.at_level(logging.WARNING, "eomt"):
        image_folder(tmp_path).setup("fit")
    assert "no val image of 'rare'" in caplog.text


def test_files_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_classes(tmp_path)
    (tmp_path / "red" / "notes.txt").write_text("hello")
    (tmp_path / "red" / "0.png").rename(tmp_path / "red" / "photo.dat")
    write_photo(tmp_path / "loose.png", "red", 88)
    with caplog.at_level(logging.INFO, "eomt"):
        image_folder(tmp_path).setup("fit")
    assert "1 file no images, left out: red/notes.txt" in caplog.text
    assert "photo.dat" in caplog.text
    assert "1 image beside the classes' folders has no class and is left out: loose.png" in caplog.text


def test_other_mistakes_are_one_line_with_the_file(tmp_path: Path) -> None:
    assert "neither a folder nor a CSV file" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no folder of a class" in refused(tmp_path / "empty")
    write_classes(tmp_path / "one")
    (tmp_path / "one" / "yellow").mkdir()
    assert "yellow: no image" in refused(tmp_path / "one")
    write_photo(tmp_path / "alone" / "red" / "0.png", "red", 0)
    assert "images of 1 class (red)" in refused(tmp_path / "alone")
    write_classes(tmp_path / "broken")
    (tmp_path / "broken" / "red" / "0.png").write_bytes(b"\x89PNG no image")
    assert "0.png: cannot be read as an image" in refused(tmp_path / "broken", val_fraction=0.3)
    write_classes(tmp_path / "unvalidated" / "train")
    assert "val: no such folder" in refused(tmp_path / "unvalidated")
    write_classes(tmp_path / "whole")
    assert "class 'red' is not in class_names" in refused(tmp_path / "whole", class_names=["blue", "green"])
    assert "has no image of it" in refused(tmp_path / "whole", class_names=[*NAMES, "pink"])
    assert "is of CSV files" in refused(tmp_path / "whole", label_separator="|")
    for field, value in (("least_crop", 0.0), ("color", 1.0), ("label_separator", "")):
        with pytest.raises(UserError, match=f"{field}: "):
            image_folder(tmp_path / "whole", **{field: value})


def test_a_saved_run_knows_its_classes_without_the_files(tmp_path: Path) -> None:
    found = image_folder(write_classes(tmp_path / "data")).found_arguments()
    assert found == {"class_names": NAMES}
    assert image_folder(tmp_path / "gone", **found).num_classes == 3


def test_the_middle_is_shown() -> None:
    image = torch.arange(3 * 20 * 31, dtype=torch.float32).reshape(3, 20, 31)
    torch.testing.assert_close(shown(image, (20, 20)), image[:, :, 5:25])
    assert shown(image, (10, 30)).shape == (3, 10, 30)
    assert shown(image, (30, 10)).shape == (3, 30, 10)


@pytest.mark.parametrize("names", [("Train", "Valid"), ("training", "validation", "testing"), ("train", "val", "Test")])
def test_folders_of_splits_are_no_classes_whatever_tools_call_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write_classes(tmp_path / name, 4, seed=1000 * number)
    data = image_folder(tmp_path)
    data.setup()
    assert data.class_names == NAMES
    assert not data.is_split_by_seed
    assert len(data.counts) == len(names)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("val", "test")])
def test_half_of_the_splits_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        write_classes(tmp_path / name, 4, seed=1000 * number)
    assert f"no such folder; add one beside {names[0]}" in refused(tmp_path)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "val", "valid")):
        write_classes(tmp_path / name, 4, seed=1000 * number)
    assert "valid: is of the val split, and so is val beside it" in refused(tmp_path)


def test_a_table_may_call_its_splits_as_folders_are_called(tmp_path: Path) -> None:
    rows = "".join(f"{number}.png,{NAMES[number % 3]},{'Train' if number < 6 else 'valid'}\n" for number in range(12))
    data = image_folder(write_table(tmp_path, "path,label,split\n" + rows))
    data.setup()
    assert [data.counts[split]["images"] for split in ("train", "val")] == [6, 6]


def test_images_beside_those_of_a_table_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = write_table(
        tmp_path, "path,label\n" + "".join(f"{number}.png,{NAMES[number % 3]}\n" for number in range(11))
    )
    write_photo(tmp_path / "deeper" / "elsewhere.png", "red", 99)
    with caplog.at_level(logging.INFO, "eomt"):
        assert len(image_folder(table).class_names) == 3
    assert "labels.csv: 1 image beside those that it lists, left out: " in caplog.text
    assert caplog.text.rstrip().endswith("11.png")
