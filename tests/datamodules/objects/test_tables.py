import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from datamodules.objects.hugging_face import HuggingFaceSegmentation
from eomt.errors import UserError

SIZE = (8, 12)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_table(file: Path, masks: list[np.ndarray], columns: tuple[str, str] = ("image", "mask")) -> None:
    random = np.random.default_rng(len(str(file)))
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)), "path": None} for _ in masks]
    table = {columns[0]: images, columns[1]: [png(mask) for mask in masks], "number": list(range(len(masks)))}
    pyarrow.parquet.write_table(pyarrow.table(table), file, row_group_size=2)


def mask_of(*labels: int) -> np.ndarray:
    return np.repeat(np.array(labels, dtype=np.uint8), SIZE[0] * SIZE[1] // len(labels)).reshape(SIZE)


def test_rows_of_several_files_and_groups_are_read_in_order(tmp_path: Path) -> None:
    write_table(tmp_path / "data" / "train-00000-of-00002.parquet", [mask_of(0, 1), mask_of(1, 2), mask_of(2)])
    write_table(tmp_path / "data" / "train-00001-of-00002.parquet", [mask_of(0, 2)])
    write_table(tmp_path / "data" / "validation-00000-of-00001.parquet", [mask_of(0, 1, 255)])
    data = HuggingFaceSegmentation(tmp_path, batch_size=1, num_workers=0, target="semantic", crop_size=SIZE)
    assert data.class_names == ["background", "class 1", "class 2"]
    splits = data.find_splits()
    assert [sorted(image.classes) for image in splits["train"]] == [[0], [0, 1], [1], [1]]
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert batch["mask"].unique().tolist() == [0, 1, 255]
    assert batch["name"] == ["val-000000"]


def test_zero_is_a_class_where_it_is_said_to_be(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", [mask_of(0, 1), mask_of(1, 0), mask_of(0, 1, 255)])
    fields = {"batch_size": 1, "num_workers": 0, "target": "semantic", "crop_size": SIZE}
    data = HuggingFaceSegmentation(tmp_path / "rows.parquet", zero_is_class=True, **fields)
    assert data.class_names == ["class 0", "class 1"]
    assert len(data.find_splits()["all"]) == 3
    data.setup()
    assert {int(v) for batch in data.val_dataloader() for v in batch["mask"].unique()} <= {0, 1, 255}
    without = HuggingFaceSegmentation(tmp_path / "rows.parquet", background=False, class_names=["a", "b"], **fields)
    without.setup()
    assert {int(v) for batch in without.val_dataloader() for v in batch["mask"].unique()} <= {0, 255}


def test_columns_and_labels_that_are_not_clear_are_asked_about(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [mask_of(0, 1)], ("left", "right"))
    with pytest.raises(UserError, match="no column that is known to hold images; give image_column, one of left"):
        HuggingFaceSegmentation(tmp_path).find_splits()
    data = HuggingFaceSegmentation(tmp_path, image_column="left")
    assert data.find_splits()["all"][0].classes == {0}
    with pytest.raises(UserError, match=r"mask_column: .* has no column 'number' of images"):
        HuggingFaceSegmentation(tmp_path, mask_column="number").find_splits()
    write_table(tmp_path / "a.parquet", [mask_of(0, 3)])
    with pytest.raises(UserError, match="masks hold labels 3; classes count from 1"):
        HuggingFaceSegmentation(tmp_path).find_splits()
    (image,) = HuggingFaceSegmentation(tmp_path, class_names=["a", "b"]).find_splits()["all"]
    with pytest.raises(UserError, match=r"a\.parquet: row 0:0, mask: label 3 .* 0 to 2 and 255"):
        image.annotation.objects(SIZE, 1)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no table of images"):
        HuggingFaceSegmentation(tmp_path).find_splits()
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read"):
        HuggingFaceSegmentation(tmp_path).find_splits()


def test_tables_beside_those_of_splits_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, labels in {"train": (0, 1), "valid": (1, 0), "extra": (1,)}.items():
        write_table(tmp_path / f"{name}.parquet", [mask_of(*labels)])
    found = HuggingFaceSegmentation(tmp_path).find_splits()
    assert {split: len(images) for split, images in found.items()} == {"train": 1, "val": 1}
    assert "1 table beside those of splits, left out" in caplog.text


def test_tables_of_training_and_test_alone_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_table(tmp_path / f"{name}.parquet", [mask_of(0, 1)])
    with pytest.raises(UserError, match=r"has images of .* and none of val"):
        HuggingFaceSegmentation(tmp_path, batch_size=1).setup()
