"""Which files of COCO's instances a stage reads."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.objects import coco_instances as module
from datamodules.objects.coco_files import read_coco
from eomt.errors import UserError
from tests.datamodules.objects.coco_data import NAMES, coco_instances, write_coco


def files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each file of annotations that is read as a whole from now on."""
    names: list[str] = []

    def noted(source: Path) -> Any:
        names.append(source.stem)
        return read_coco(source)

    monkeypatch.setattr(module, "read_coco", noted)
    return names


STAGES = {"fit": ["test", "train", "val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_the_file_of_its_split_alone(tmp_path: Path, stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit reads all of them, for what is measured must not be trained on."""
    write_coco(tmp_path, train=8, val=4, test=4)
    names = files_read(monkeypatch)
    data = coco_instances(tmp_path)
    assert data.class_names == NAMES
    assert not data.is_split_by_seed
    assert names == []
    data.setup(stage)
    loaders = {"validate": data.val_dataloader, "test": data.test_dataloader, "predict": data.predict_dataloader}
    batches = [*loaders.get(stage, data.val_dataloader)(), *(data.train_dataloader() if stage == "fit" else [])]
    assert len(batches) == (8 if stage == "fit" else 4)
    assert sorted(names) == [f"instances_{split}2017" for split in STAGES[stage]]


def test_prediction_without_a_test_split_reads_that_of_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path)
    names = files_read(monkeypatch)
    data = coco_instances(tmp_path, class_names=NAMES)
    data.setup("predict")
    assert len(list(data.predict_dataloader())) == 4
    assert names == ["instances_val2017"]


def test_a_fit_after_another_stage_compares_the_splits(tmp_path: Path) -> None:
    write_coco(tmp_path, train=8, val=4, test=4)
    copied = (tmp_path / "train2017" / "000000000000.png").read_bytes()
    (tmp_path / "test2017" / "000000000012.png").write_bytes(copied)
    data = coco_instances(tmp_path)
    data.setup("validate")
    data.setup("test")
    with pytest.raises(UserError, match=r"in test, is a copy of .* in train"):
        data.setup("fit")


def test_splits_are_refused_in_every_stage_where_files_split(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "splits.json").write_text("{}")
    with pytest.raises(UserError, match=r"splits: .* is split by its files"):
        coco_instances(tmp_path, splits=tmp_path / "splits.json").setup("validate")


def test_all_stages_at_once_compare_the_splits(tmp_path: Path) -> None:
    write_coco(tmp_path)
    copied = (tmp_path / "train2017" / "000000000000.png").read_bytes()
    (tmp_path / "val2017" / "000000000008.png").write_bytes(copied)
    with pytest.raises(UserError, match=r"in val, is a copy of .* in train"):
        coco_instances(tmp_path).setup()
