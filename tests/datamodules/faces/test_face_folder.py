"""Faces without labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.faces.face_folder import FaceFolder
from eomt.errors import UserError
from tests.datamodules.faces.face_files import write_face


def faces(path: Path, number: int = 10, **arguments: Any) -> FaceFolder:
    for index in range(number):
        write_face(path / f"{index // 4}" / f"{index}.png", index)
    settings = {"batch_size": 3, "img_size": 16, "eval_batch_size": 2, "num_workers": 0, "val_fraction": 0.2}
    return FaceFolder(str(path), **(settings | arguments))


def test_all_images_below_the_folder_are_used_once(tmp_path: Path) -> None:
    data = faces(tmp_path)
    data.setup()
    assert data.counts == {"train": {"images": 8}, "val": {"images": 2}}
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    assert [batch["image"].shape for batch in batches] == [(3, 3, 16, 16)] * 2 + [(2, 3, 16, 16)]
    assert all(batch["image"].dtype == torch.uint8 for batch in batches)
    assert sorted(name for names in data.split_record.values() for name in names) == sorted(
        f"{index // 4}/{index}.png" for index in range(10)
    )
    names = [name for batch in batches for name in batch["name"]]
    assert len(set(names)) == 8
    assert set(batches[-1]) == {"image", "path", "name"}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_crops_depend_on_the_seed_alone(tmp_path: Path, num_workers: int) -> None:
    first = list(faces(tmp_path, num_workers=num_workers).train_dataloader())
    torch.manual_seed(1)
    again = list(faces(tmp_path).train_dataloader())
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(first, again, strict=True))
    other = faces(tmp_path).train_dataloader()
    other.sampler.set_epoch(1)
    assert not torch.equal(next(iter(other))["image"], first[0]["image"])


def test_validation_shows_the_middle_of_the_image_unchanged(tmp_path: Path) -> None:
    data = faces(tmp_path)
    for file in tmp_path.rglob("*.png"):
        write_face(file, 0, (16, 40))
    batch = next(iter(data.val_dataloader()))
    with Image.open(batch["path"][0]) as file:
        assert np.array_equal(batch["image"][0].permute(1, 2, 0), np.asarray(file)[:, 12:28])


def test_a_recorded_split_is_used_again(tmp_path: Path) -> None:
    record = faces(tmp_path / "data", split_seed=3).split_record
    (tmp_path / "splits.json").write_text(json.dumps(record))
    again = faces(tmp_path / "data", splits=str(tmp_path / "splits.json"))
    assert again.split_record == record != faces(tmp_path / "data").split_record


def test_prediction_takes_validation_or_any_other_images(tmp_path: Path) -> None:
    file = write_face(tmp_path / "new" / "x.png", 1)
    assert [b["name"] for b in faces(tmp_path / "data", predict_path=str(file)).predict_dataloader()] == [["x.png"]]
    data = faces(tmp_path / "data")
    assert [b["name"] for b in data.predict_dataloader()] == [data.split_record["val"]]


def test_errors_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"path: .*nowhere is not a folder"):
        FaceFolder(str(tmp_path / "nowhere")).setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"path: .*empty is no image and no folder of images"):
        FaceFolder(str(tmp_path / "empty")).setup("fit")
    with pytest.raises(UserError, match="batch_size: 9 on 1 processes is more than the 8 training images"):
        faces(tmp_path / "data", batch_size=9).setup("fit")
    with pytest.raises(UserError, match="no test split; use validate"):
        faces(tmp_path / "data").test_dataloader()
    write_face(tmp_path / "data" / "0" / "0.png", 0, (8, 30))
    with pytest.raises(UserError, match=r"0\.png: image of 8 x 30 .*at least 16 pixels"):
        faces(tmp_path / "data", number=0).setup()
