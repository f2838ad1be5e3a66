"""What every data module tells the application, and which of its fields hold paths."""

from pathlib import Path
from typing import Any, get_args

import pytest
from jsonargparse import ArgumentParser

import datamodules
from datamodules import DataModule, ImageDataModule
from datamodules.common.data_module import NetworkFact
from eomt.utils.paths import path_fields
from tests.datamodules.common.image_files import write_given_splits, write_split
from tests.datamodules.defects.defect_files import write_kaggle
from tests.datamodules.questions.question_files import write_questions

CLASSES: list[type[DataModule]] = [
    getattr(datamodules, name) for name in datamodules.__all__ if name not in ("DataModule", "ImageDataModule")
]
# of each class: the fields that hold paths
PATHS = {
    "ImageMaskFolder": {"path", "splits", "outliers", "predict_path"},
    "RoadAnomaly": {"path", "predict_path"},
    "Severstal": {"path", "splits", "predict_path", "prompts"},
    "MorphFaces": {"path", "splits", "test_paths", "predict_path", "pretraining_path"},
    "VQACsv": {"train_csv", "val_csv", "test_csv", "image_folder", "splits"}
    | {"tokenizer", "answer_weights", "predict_csv", "predict_path"},
    "VQAv2": {
        f"{split}_{kind}" for split in ("train", "val", "test") for kind in ("questions", "annotations", "images")
    }
    | {"tokenizer", "answer_weights", "predict_csv", "predict_path"},
}


def fields_of(data_class: type[DataModule]) -> set[str]:
    """Fields that a configuration may have."""
    parser = ArgumentParser()
    parser.add_class_arguments(data_class, "data")
    return {action.dest.removeprefix("data.") for action in parser._actions if action.dest.startswith("data.")}


def from_yaml(text: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DataModule, "data")
    return parser.instantiate_classes(parser.parse_string(f"data: {text}")).data


def test_a_data_module_that_says_nothing_has_no_classes_and_no_split_of_its_own() -> None:
    for data in (DataModule(2), ImageDataModule(2, 1, 0)):
        assert data.batch_size == 2
        assert data.counts == {}
        assert data.class_names is data.num_classes is data.predict_path is None
        assert not data.is_split_by_seed
        assert not data.balanced
        assert data.split_record == data.found_arguments() == dict(data.from_network) == {}


def test_the_number_of_classes_is_that_of_their_names() -> None:
    class Named(DataModule):
        @property
        def class_names(self) -> list[str]:
            return ["a", "b", "c"]

    assert Named(1).num_classes == 3


@pytest.mark.parametrize("data_class", CLASSES)
def test_what_is_taken_from_the_network_are_fields_of_a_configuration(data_class: type[DataModule]) -> None:
    assert issubclass(data_class, DataModule)
    assert set(data_class.from_network) <= fields_of(data_class)
    assert set(data_class.from_network.values()) <= set(get_args(NetworkFact))


@pytest.mark.parametrize("data_class", CLASSES)
def test_every_field_that_is_called_like_a_path_is_typed_as_one(data_class: type[DataModule]) -> None:
    called = {
        name
        for name in fields_of(data_class)
        if name == "splits" or name.endswith(("path", "paths", "_csv", "folder", "_annotations", "_images"))
    }
    # counts of generated images
    assert called - {"num_images"} <= path_fields(data_class)
    if data_class.__name__ in PATHS:
        assert path_fields(data_class) == PATHS[data_class.__name__]


def test_the_home_folder_is_expanded_and_attributes_are_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    data = from_yaml("{class_path: datamodules.ImageMaskFolder, init_args: {path: ~/streets, outliers: cutouts}}")
    assert (data.path, data.outliers, data.splits) == (Path("/home/someone/streets"), Path("cutouts"), None)
    data = from_yaml(
        "{class_path: datamodules.VQACsv, init_args: {train_csv: ~/train.csv, tokenizer: ~/t, predict_csv: ~/b.csv}}"
    )
    assert data.train_csv == Path("/home/someone/train.csv")
    assert data.predict_csv == Path("/home/someone/b.csv")
    assert data.tokenizer == "/home/someone/t"
    data = from_yaml("{class_path: datamodules.MorphFaces, init_args: {path: faces, test_paths: {frll: ~/FRLL}}}")
    assert data.test_paths == {"frll": Path("/home/someone/FRLL")}


def test_the_id_of_a_repository_stays_as_it_was_written() -> None:
    data = from_yaml("{class_path: datamodules.VQACsv, init_args: {train_csv: a.csv, tokenizer: google/bert-base}}")
    assert data.tokenizer == "google/bert-base"


def test_what_reading_finds_out_is_told_as_fields(tmp_path: Path) -> None:
    write_given_splits(tmp_path / "masks")
    write_kaggle(tmp_path / "steel")
    write_questions(tmp_path / "questions", range(4))
    found = datamodules.ImageMaskFolder(tmp_path / "masks").found_arguments()
    assert found == {"class_names": ["class 0", "class 1", "class 2"]}
    assert datamodules.ImageMaskFolder(tmp_path, class_map={0: 0, 5: 1}).found_arguments() == {}
    assert list(datamodules.Severstal(tmp_path / "steel").found_arguments()) == ["class_names"]
    questions = datamodules.VQACsv(tmp_path / "questions" / "train.csv", val_fraction=0.25)
    assert questions.found_arguments() == {"answers": questions.answers}
    for kind, fields in (("ImageMaskFolder", found), ("VQACsv", questions.found_arguments())):
        assert set(fields) <= fields_of(getattr(datamodules, kind))


def test_a_seeded_split_has_a_record_that_makes_it_again(tmp_path: Path) -> None:
    write_split(tmp_path, 12)
    data = datamodules.ImageMaskFolder(tmp_path)
    assert data.is_split_by_seed
    assert sorted(map(len, data.split_record.values())) == [2, 2, 8]


@pytest.mark.parametrize(
    ("data_class", "absent"),
    [
        (datamodules.StreetScenes, {"class_map", "image_suffix", "splits", "val_fraction", "class_names"}),
        (datamodules.StreetAnomalies, {"class_map", "image_suffix", "splits", "val_fraction", "class_names"}),
        (datamodules.Cityscapes, {"class_map", "image_suffix", "splits", "val_fraction", "class_names"}),
        (datamodules.SteelStrips, {"class_names", "splits", "split_seed"}),
        (datamodules.GeneratedFaces, {"face_boxes", "splits", "split_seed"}),
        (datamodules.GeneratedMorphs, {"identity_pattern", "face_boxes", "splits", "num_folds", "val_fraction"}),
        (datamodules.ShapeQuestions, {"train_csv", "splits", "answers", "on_missing", "language"}),
    ],
)
def test_fields_that_mean_nothing_for_generated_and_official_data_are_not_offered(
    data_class: type[DataModule], absent: set[str]
) -> None:
    assert not fields_of(data_class) & absent
