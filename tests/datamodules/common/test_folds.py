"""Folds and shares of training images, the same for every data module that a seed splits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import FaceFolder, ImageMaskFolder, Severstal
from datamodules.common.image_data_module import ImageDataModule
from eomt.errors import UserError
from tests.datamodules.classification.test_image_folder import image_folder
from tests.datamodules.common.image_files import write_given_splits, write_split
from tests.datamodules.defects.defect_files import write_kaggle
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people
from tests.datamodules.objects.coco_data import coco_instances, make_document, write_document, write_image
from tests.datamodules.questions.question_files import vqa_csv, write_questions
from tests.tiny_classification import write_classes

SHARES = {"val_fraction": 0.2, "test_fraction": 0.2}
Make = Callable[..., ImageDataModule]


def masks(folder: Path) -> Make:
    write_split(folder, 12)
    return lambda **fields: ImageMaskFolder(folder, crop_size=(12, 16), num_workers=0, batch_size=1, **fields)


def objects(folder: Path) -> Make:
    names = [f"{number}.png" for number in range(12)]
    write_document(folder / "_annotations.coco.json", make_document(names))
    for number, name in enumerate(names):
        write_image(folder / name, number)
    # a copy of an annotated image stays with it
    shutil.copy(folder / "0.png", folder / "1.png")
    return lambda **fields: coco_instances(folder, batch_size=1, **fields)


def defects(folder: Path) -> Make:
    write_kaggle(folder, 12)
    return lambda **fields: Severstal(folder, img_size=(16, 32), num_workers=0, include_clean=True, **fields)


def classes(folder: Path) -> Make:
    write_classes(folder, 10)
    return lambda **fields: image_folder(folder, batch_size=1, **fields)


def faces(folder: Path) -> Make:
    write_people(folder, range(12))
    return lambda **fields: morph_faces(folder, **fields)


def plain_faces(folder: Path) -> Make:
    for number in range(12):
        write_face(folder / f"{number}.png", number)
    return lambda **fields: FaceFolder(
        folder, img_size=16, num_workers=0, batch_size=1, **{k: v for k, v in fields.items() if k != "test_fraction"}
    )


def questions(folder: Path) -> Make:
    write_questions(folder, range(12))
    return lambda **fields: vqa_csv(folder, batch_size=1, **fields)


ALL = [masks, objects, defects, classes, faces, plain_faces, questions]


@pytest.fixture(params=ALL, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return request.param(tmp_path / "data")


def names(data: ImageDataModule) -> dict[str, list[str]]:
    """The images that a fit would read, by split."""
    data.setup("fit")
    found: dict[str, list[str]] = {}
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        found[split] = sorted({name for batch in loader for name in batch.get("path", batch["name"]) if name})
    return found


def test_each_image_of_train_and_val_is_validated_in_one_fold_and_the_test_stays(make: Make, tmp_path: Path) -> None:
    whole = make(**SHARES)
    record = whole.split_record
    pool = {*record["train"], *record["val"]}
    folds = whole.fold_records(3)
    assert len(folds) == 3
    validated = [name for fold in folds for name in fold["val"]]
    is_faces = whole.__class__.__name__ == "MorphFaces"
    # of faces, morphs of people on different sides are in no fold
    assert len(validated) == len(set(validated))
    assert set(validated) <= pool if is_faces else set(validated) == pool
    for number, fold in enumerate(folds):
        assert sorted(fold["test"]) == sorted(record["test"])
        assert not set(fold["train"]) & set(fold["val"])
        # the data module itself takes it, and finds no copy, person or image on two sides
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(fold))
        again = make(**SHARES, splits=file)
        again.setup("fit")
        assert {split: sorted(found) for split, found in again.split_record.items() if split != "test"} == {
            split: sorted(fold[split]) for split in ("train", "val")
        }
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= (8 if is_faces else 3)


def test_a_share_of_the_training_images_is_part_of_a_larger_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    found = {share: names(make(**SHARES, train_share=share)) for share in (0.25, 0.5, 1.0)}
    quarter, half, whole = (set(found[share]["train"]) for share in (0.25, 0.5, 1.0))
    assert quarter < half < whole
    assert len(half) == pytest.approx(len(whole) / 2, abs=1)
    assert found[0.25]["val"] == found[1.0]["val"]
    # the record is that of all, so that a run that goes on uses the same share of the same images
    assert make(**SHARES, train_share=0.25).split_record == make(**SHARES).split_record
    assert make(**SHARES, train_share=0.5).fold_records(2) == make(**SHARES).fold_records(2)
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert set(names(make(**SHARES, train_share=0.5))["train"]) != half


def test_given_splits_have_no_folds_but_shares(tmp_path: Path) -> None:
    write_given_splits(tmp_path, 4)
    arguments: dict[str, Any] = {"crop_size": (12, 16), "num_workers": 0, "batch_size": 1}
    data = ImageMaskFolder(tmp_path, **arguments)
    assert data.fold_records(2) == []
    assert len(names(ImageMaskFolder(tmp_path, **arguments, train_share=0.5))["train"]) == 2


def test_copies_stay_in_one_fold(tmp_path: Path) -> None:
    data = objects(tmp_path)(**SHARES)
    for fold in data.fold_records(3):
        for split in ("train", "val"):
            assert ("0.png" in fold[split]) == ("1.png" in fold[split])


def test_impossible_folds_and_shares_are_refused(tmp_path: Path) -> None:
    make = masks(tmp_path)
    with pytest.raises(UserError, match="folds: 9, of 10 different images"):
        make(**SHARES).fold_records(9)
    for share in (0.0, 1.5, -1):
        with pytest.raises(UserError, match=r"train_share: .* must be above 0 and at most 1"):
            make(train_share=share)
