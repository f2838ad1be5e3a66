"""Every data module keeps the contract that tasks and callbacks rely on."""

import inspect

import pytest
from lightning.pytorch import LightningDataModule, Trainer

import datamodules
from datamodules import DataModule, ImageDataModule
from eomt.tasks.data import FaceData, QuestionData, TaskData, data_of

MEMBERS = [name for name in vars(TaskData) if not name.startswith("_")]
OFFERED = [getattr(datamodules, name) for name in datamodules.__all__]
CLASSES = [value for value in OFFERED if inspect.isclass(value) and issubclass(value, LightningDataModule)]


def test_a_data_module_that_says_nothing_keeps_the_contract() -> None:
    data = ImageDataModule(2, 1, 0)
    assert set(MEMBERS) >= {"batch_size", "counts", "class_names", "split_record", "train_dataloader"}
    found = {name: getattr(data, name) for name in MEMBERS if not callable(getattr(data, name))}
    assert found == {
        "batch_size": 2, "counts": {}, "num_classes": None, "class_names": None, "is_split_by_seed": False,
        "split_record": {}, "balanced": False, "predict_path": None, "is_prepared": True,
        "repeats_images": True, "reading_notes": [],
    }  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_data_module_keeps_it(kind: type) -> None:
    assert issubclass(kind, DataModule)


def test_data_of_faces_and_questions_are_told_apart() -> None:
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, FaceData)} == {"MorphFaces", "GeneratedMorphs"}
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, QuestionData)} == {
        "VQACsv", "VQAv2", "ShapeQuestions",
    }  # fmt: skip


def test_a_trainer_without_a_data_module_has_no_data() -> None:
    assert data_of(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)) is None
