import multiprocessing
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.class_maps import CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES
from datamodules.common.zip_members import ZipMember, _archive, _version
from datamodules.segmentation.cityscapes import Cityscapes
from eomt.errors import UserError

ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}


def label_ids(seed: int) -> np.ndarray:
    """Return (8, 16) with all labelIds, ignored ones too, in an order of its own."""
    return np.resize(np.random.default_rng(seed).permutation(34), (8, 16)).astype(np.uint8)


def write_frame(path: Path, split: str, stem: str, labels: np.ndarray, kinds: tuple[str, ...]) -> None:
    """Write an image whose red tells the label, and its annotations."""
    folders = [path / root / split / stem.split("_")[0] for root in ARCHIVES]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    image = np.stack([labels * 7, labels, labels], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(folders[0] / f"{stem}_leftImg8bit.png")
    table = np.full(256, 255, dtype=np.uint8)
    table[list(CITYSCAPES_LABEL_IDS)] = list(CITYSCAPES_LABEL_IDS.values())
    annotations = {"labelIds": labels, "labelTrainIds": table[labels]}
    for kind in kinds:
        Image.fromarray(annotations[kind]).save(folders[1] / f"{stem}_gtFine_{kind}.png")


def write_cityscapes(path: Path, kinds: tuple[str, ...] = ("labelIds",)) -> Path:
    """Write two images to train on, two of validation, and one of test without public classes."""
    for split, cities in {"train": ("aachen", "ulm"), "val": ("munster", "frankfurt"), "test": ("bonn",)}.items():
        for number, city in enumerate(cities):
            labels = label_ids(number + 10 * len(split)) if split != "test" else np.full((8, 16), 3, dtype=np.uint8)
            write_frame(path, split, f"{city}_000000_000019", labels, kinds)
    return path


def write_archives(source: Path, path: Path) -> Path:
    """Pack extracted folders as Cityscapes' archives are packed."""
    path.mkdir()
    for root, archive in ARCHIVES.items():
        with zipfile.ZipFile(path / archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("license.txt", "...")
            for file in sorted((source / root).rglob("*.png"), reverse=True):
                packed.write(file, file.relative_to(source).as_posix())
    return path


def cityscapes(path: Path, **arguments: Any) -> Cityscapes:
    return Cityscapes(str(path), **({"batch_size": 2, "crop_size": (8, 8), "num_workers": 0} | arguments))


def contents(data: Cityscapes) -> list[dict[str, Any]]:
    """Return all batches of training and validation."""
    data.setup("fit")
    return [*data.train_dataloader(), *data.val_dataloader()]


def test_archives_and_folders_and_both_kinds_of_labels_give_identical_batches(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path / "extracted", kinds=("labelIds", "labelTrainIds"))
    packed = write_archives(folder, tmp_path / "packed")
    expected = contents(cityscapes(folder, labels="labelIds"))
    assert [name for batch in expected[1:] for name in batch["name"]] == [
        "frankfurt/frankfurt_000000_000019_leftImg8bit.png",
        "munster/munster_000000_000019_leftImg8bit.png",
    ]
    for path in (folder, packed):
        for labels in ("labelIds", "labelTrainIds"):
            for batch, other in zip(expected, contents(cityscapes(path, labels=labels)), strict=True):
                assert batch["name"] == other["name"]
                assert torch.equal(batch["image"], other["image"])
                assert torch.equal(batch["mask"], other["mask"])


def test_every_label_becomes_its_train_id(tmp_path: Path) -> None:
    data = cityscapes(write_cityscapes(tmp_path))
    (batch, _) = data.val_dataloader()
    raw = batch["image"][0, 1].long()
    # facts of the data set, written out apart from the table under test
    assert set(batch["mask"][0][raw == 7].tolist()) == {0}
    assert set(batch["mask"][0][raw == 26].tolist()) == {13}
    assert set(batch["mask"][0][raw == 33].tolist()) == {18}
    for ignored in (0, 1, 6, 9, 10, 14, 15, 16, 18, 29, 30):
        assert set(batch["mask"][0][raw == ignored].tolist()) == {255}
    assert (data.num_classes, data.class_names[13]) == (19, "car")
    assert len(CITYSCAPES_NAMES) == len(set(CITYSCAPES_NAMES)) == 19


def test_train_ids_are_taken_where_there_are_no_label_ids(tmp_path: Path) -> None:
    data = cityscapes(write_cityscapes(tmp_path, kinds=("labelTrainIds",)))
    data.setup("fit")
    assert data.counts["train"] == {"images": 2} | dict.fromkeys(CITYSCAPES_NAMES, 2)
    assert {split: len(names) for split, names in data.split_record.items()} == {"train": 2, "val": 2, "test": 1}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_archive_is_read_alike_by_any_number_of_workers(tmp_path: Path, num_workers: int) -> None:
    packed = write_archives(write_cityscapes(tmp_path / "extracted"), tmp_path / "packed")
    data = cityscapes(packed, num_workers=num_workers, batch_size=1)
    # opened here first, so that forked workers inherit the handle
    data.setup("fit")
    for _ in range(2):
        for batch in data.val_dataloader():
            assert torch.equal(batch["image"][:, 0], batch["image"][:, 1] * 7)


def test_a_forked_worker_does_not_move_the_file_position_of_its_parent(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("first", "second"):
            packed.writestr(name, name * 10_000)
    member = ZipMember(tmp_path / "a.zip", "first")
    member.read()
    handle = _archive(member.archive, os.getpid(), _version(member.archive)).fp
    assert handle is not None
    before = os.lseek(handle.fileno(), 0, os.SEEK_CUR)
    worker = multiprocessing.get_context("fork").Process(target=ZipMember(member.archive, "second").read)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert os.lseek(handle.fileno(), 0, os.SEEK_CUR) == before


def test_an_archive_that_takes_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    """15.11: an open archive was kept by its name, also where another had been put there."""
    member = ZipMember(tmp_path / "a.zip", "inside.txt")
    for content in (b"first", b"the second"):
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as packed:
            packed.writestr("inside.txt", content)
        (tmp_path / "new.zip").replace(member.archive)
        assert member.read() == content


def test_a_member_of_an_archive_travels_to_other_processes(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("b/c.txt", "hello")
    member = pickle.loads(pickle.dumps(ZipMember(archive, "b/c.txt")))
    assert member.read() == b"hello"
    assert str(member) == f"{archive}/b/c.txt"


def test_the_test_images_are_predicted_but_not_measured(tmp_path: Path) -> None:
    data = cityscapes(write_cityscapes(tmp_path))
    assert [batch["name"] for batch in data.predict_dataloader()] == [["bonn/bonn_000000_000019_leftImg8bit.png"]]
    with pytest.raises(UserError, match="no public annotations; use validate"):
        data.setup("test")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_predictions_go_back_to_label_ids(tmp_path: Path, kind: str) -> None:
    """15 H: what the server takes; road is 7 there, car 26, bicycle 33."""
    labels = cityscapes(write_cityscapes(tmp_path, (kind,))).file_labels()
    assert (len(labels), labels[0], labels[13], labels[18]) == (19, 7, 26, 33)


def test_without_test_images_val_is_predicted(tmp_path: Path) -> None:
    write_frame(tmp_path, "val", "ulm_000000_000019", label_ids(0), ("labelIds",))
    (batch,) = cityscapes(tmp_path).predict_dataloader()
    assert batch["name"] == ["ulm/ulm_000000_000019_leftImg8bit.png"]


def test_crops_are_those_of_the_recipe_unless_given() -> None:
    assert Cityscapes("nowhere").crop_size == (1024, 1024)


def in_gt(path: Path) -> Path:
    return path / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"


def unknown_label(path: Path) -> None:
    labels = label_ids(0)
    labels[labels == 9] = 99
    Image.fromarray(labels).save(in_gt(path))


def color_mask(path: Path) -> None:
    Image.fromarray(np.full((8, 16, 3), (128, 64, 128), dtype=np.uint8)).save(in_gt(path))


def color_files_only(path: Path) -> None:
    for file in (path / "gtFine").rglob("*.png"):
        file.rename(file.with_name(file.name.replace("labelIds", "color")))


def no_train_images(path: Path) -> None:
    for root in ARCHIVES:
        for file in (path / root / "train").rglob("*.png"):
            file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_label, r"aachen_000000_000019_gtFine_labelIds\.png: label 99 \(\d pixels\) is neither"),
        (color_mask, r"_labelIds\.png: color mask \(128 colored pixels"),
        (color_files_only, r"gtFine: no file ends with _gtFine_labelIds\.png"),
        (no_train_images, "the train split is empty"),
        (lambda path: in_gt(path).unlink(), r"aachen_000000_000019_leftImg8bit\.png: no annotation .*\(1 of 2 files"),
        (
            lambda path: (path / "leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png").unlink(),
            r"munster_000000_000019_gtFine_labelIds\.png: no image .*\(1 of 2 files",
        ),
    ],
)
def test_errors_are_found_before_training_and_said_in_a_line(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(write_cityscapes(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        cityscapes(tmp_path).setup("fit")
    assert "\n" not in str(error.value)


def test_archives_that_are_others_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / ARCHIVES["leftImg8bit"]
    with pytest.raises(UserError, match=r"neither the folder leftImg8bit nor leftImg8bit_trainvaltest\.zip"):
        cityscapes(tmp_path).setup("fit")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("leftImg8bit_blurred/train/a.png", "")
    with pytest.raises(UserError, match=r"holds no folder leftImg8bit \(but leftImg8bit_blurred\)"):
        cityscapes(tmp_path).setup("fit")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / ARCHIVES["leftImg8bit"]).write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be read as a zip file"):
        cityscapes(tmp_path / "damaged").setup("fit")


# where the general flags and the method of compression stand in the headers of a file and of the directory
FIELDS = {
    "encrypted": ((b"PK\x03\x04", 6, 1), (b"PK\x01\x02", 8, 1)),
    "deflate64": ((b"PK\x03\x04", 8, 9), (b"PK\x01\x02", 10, 9)),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_an_archive_that_python_cannot_unpack_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    packed = write_archives(write_cityscapes(tmp_path / "extracted"), tmp_path / "packed")
    archive = packed / ARCHIVES["gtFine"]
    content = bytearray(archive.read_bytes())
    for signature, offset, value in FIELDS[kind]:
        start = content.find(signature)
        while start >= 0:
            content[start + offset] = value
            start = content.find(signature, start + 4)
    archive.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"gtFine_trainvaltest\.zip/.*cannot be read .*extract it") as error:
        cityscapes(packed).setup("fit")
    assert "\n" not in str(error.value)


def test_without_test_annotations_it_is_said_that_there_are_none(tmp_path: Path) -> None:
    folder = write_cityscapes(tmp_path)
    for root in ARCHIVES:
        shutil.rmtree(folder / root / "test")
    with pytest.raises(UserError, match="no annotated test images; use validate"):
        cityscapes(folder).setup("test")


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("root", list(ARCHIVES))
def test_files_are_found_by_any_spelling(tmp_path: Path, root: str, is_packed: bool) -> None:
    """15.28: `no file ends with _leftImg8bit.png` where all end with _leftImg8bit.PNG."""
    path = write_cityscapes(tmp_path / "source")
    expected = Cityscapes(path, num_workers=0).find_splits()
    if is_packed:
        path = tmp_path / "packed"
        path.mkdir()
        for tree, archive in ARCHIVES.items():
            with zipfile.ZipFile(path / archive, "w") as packed:
                for file in (tmp_path / "source" / tree).rglob("*.png"):
                    name = file.relative_to(tmp_path / "source").as_posix()
                    packed.write(file, name.replace(".png", ".PNG") if tree == root else name)
    else:
        for file in list((path / root).rglob("*.png")):
            file.rename(file.with_suffix(".PNG"))
    found = Cityscapes(path, num_workers=0).find_splits()
    for split, pairs in expected.items():
        assert sorted(pair.name.lower() for pair in found[split]) == sorted(pair.name.lower() for pair in pairs)
