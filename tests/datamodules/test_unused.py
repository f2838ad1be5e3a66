"""Given and without effect: said once, and never passed over."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from datamodules.common.data_module import DataModule
from tests.datamodules.defects.defect_files import severstal, write_supervisely
from tests.datamodules.faces.face_files import morph_faces, write_people, write_splits
from tests.datamodules.questions.question_files import vqa_csv, write_questions


def steel(path: Path) -> DataModule:
    for number, split in enumerate(("train", "val")):
        write_supervisely(path / f"{split}_split", range(4 * number, 4 * number + 4))
    return severstal(path, val_fraction=0.4)


def faces(path: Path) -> DataModule:
    return morph_faces(write_splits(path), split_seed=7)


def folds(path: Path) -> DataModule:
    return morph_faces(write_people(path, range(20)), num_folds=5, test_fraction=0.4)


def questions(path: Path) -> DataModule:
    write_questions(path, range(4))
    return vqa_csv(path, val_csv=write_questions(path, range(4, 6), "val.csv"), val_fraction=0.4)


@pytest.mark.parametrize(
    ("make", "unused"),
    [(steel, "val_fraction 0.4"), (faces, "split_seed 7"), (folds, "test_fraction 0.4"), (questions, "val_fraction")],
)
def test_shares_of_images_where_nothing_is_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], Any], unused: str
) -> None:
    data = make(tmp_path)
    data.trainer = Trainer(logger=False, enable_checkpointing=False)
    with caplog.at_level(logging.INFO, "eomt"):
        data.setup("fit")
        data.setup("fit")
    said = [record.getMessage() for record in caplog.records if "no use for" in record.getMessage()]
    assert len(said) == 1
    assert f"no use for {unused}" in said[0]
