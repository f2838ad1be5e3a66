"""Prompts in files: each form says the same, and each mistake is told with its row."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import Severstal
from datamodules.objects.prompt_files import PADDING_LABEL, class_ids_of, match_prompts, read_prompts
from eomt.errors import UserError
from tests.datamodules.defects.defect_files import write_image, write_kaggle

NAMES = ["pit", "line"]


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two images of 20 x 30 pixels (height x width), the second stored on its side."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "in" / "b.jpg", exif=exif)
    return {"a.png": tmp_path / "a.png", "in/b.jpg": tmp_path / "in" / "b.jpg"}


def written(folder: Path, content: Any, suffix: str = ".csv") -> Path:
    file = folder / f"prompts{suffix}"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


BOXES = [("a.png", [2, 3, 9, 8], "line"), ("a.png", [0, 0, 29, 19], "pit"), ("in/b.jpg", [4, 4, 4, 4], "pit")]
COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "in/b.jpg"}],
    "categories": [{"id": 5, "name": "line"}, {"id": 6, "name": "pit"}],
    "annotations": [
        {"image_id": 7, "bbox": [2, 3, 8, 6], "category_id": 5, "segmentation": []},
        {"image_id": 7, "bbox": [0, 0, 30, 20], "category_id": 6},
        {"image_id": 8, "bbox": [4.0, 4, 1, 1], "category_id": 6},
    ],
}
TABLE = "File,x0,y0,x1,y1,label\n" + "".join(f"{n},{','.join(map(str, b))},{label}\n" for n, b, label in BOXES)
ROWS = [{"file": n, "label": label, **dict(zip(("x0", "y0", "x1", "y1"), b, strict=True))} for n, b, label in BOXES]


@pytest.mark.parametrize(("content", "suffix"), [(TABLE, ".csv"), (ROWS, ".json"), (COCO, ".json")])
def test_boxes_are_the_same_in_each_form(
    tmp_path: Path, images: dict[str, Path], content: Any, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path, content, suffix)
    with caplog.at_level(logging.INFO, "eomt"):
        found = match_prompts(file, read_prompts(file, NAMES), images)
    assert {name: asked.prompts.boxes.tolist() for name, asked in found.items()} == {
        "a.png": [[2, 3, 9, 8], [0, 0, 29, 19]],
        "in/b.jpg": [[4, 4, 4, 4]],
    }
    ids = class_ids_of(found, NAMES)
    assert {name: None if of is None else of.tolist() for name, of in ids.items()} == {
        "a.png": [1, 0], "in/b.jpg": [0],
    }  # fmt: skip
    assert "numbers of objects" not in caplog.text
    assert "asks for 3 objects in 2 images" in caplog.text


def test_points_of_one_object_belong_together(tmp_path: Path) -> None:
    text = "file,x,y,point_label,object\na.png,1,2,1,left\na.png,5,6,0,left\na.png,8,9,1,\na.png,8.5,9,,\n"
    asked = read_prompts(written(tmp_path, text), NAMES)["a.png"]
    assert asked.prompts.points is not None
    assert asked.prompts.labels is not None
    assert asked.prompts.points.tolist() == [[[1, 2], [5, 6]], [[8, 9], [0, 0]], [[8.5, 9], [0, 0]]]
    assert asked.prompts.labels.tolist() == [[1, 0], [1, PADDING_LABEL], [1, PADDING_LABEL]]
    assert asked.prompts.labels.dtype == torch.int32
    # nobody says what they are
    assert asked.labels == ["object"] * 3
    assert class_ids_of({"a.png": asked}, NAMES) == {"a.png": None}
    assert read_prompts(tmp_path / "prompts.csv", ["pit"])["a.png"].labels == ["pit"] * 3


def test_a_label_that_is_no_class_is_named_and_changes_its_own_image_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "file,x,y,label\na.png,1,2,pit\na.png,1,2,pitt\nb.png,3,4,line\nc.png,1,1,\n"
    ids = class_ids_of(read_prompts(written(tmp_path, text), NAMES), NAMES)
    assert ids["a.png"] is None
    assert ids["c.png"] is None
    assert ids["b.png"] is not None
    assert ids["b.png"].tolist() == [NAMES.index("line")]
    assert len(caplog.records) == 1
    assert (
        "no class is called 'pitt' and labels are missing: in the masks of 2 images there are numbers of objects, and "
        "no class ids: a.png, c.png"
    ) in caplog.text


def test_images_are_found_by_the_last_part_of_their_names_where_one_has_it(
    tmp_path: Path, images: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path, "file,x,y\nelsewhere/B.JPG,1,1\n".replace("B.JPG", "b.JPG"))
    with caplog.at_level(logging.INFO, "eomt"):
        assert list(match_prompts(file, read_prompts(file, NAMES), images)) == ["in/b.jpg"]
    assert "1 image without a prompt: a.png" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "eomt"):
        match_prompts(file, read_prompts(file, NAMES), images, all_predicted=False)
    assert "without a prompt" not in caplog.text
    with pytest.raises(UserError, match=r"row 2: image elsewhere/b\.JPG may be any of in/b\.jpg, other/b\.jpg"):
        match_prompts(file, read_prompts(file, NAMES), images | {"other/b.jpg": images["in/b.jpg"]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.png,1,1,2,2", r"row 3: image c\.png is none of the 2 images"),
        ("a.png,1,1,30,2", r"row 3: box \[1, 1, 30, 2\] is not inside of a\.png, of 30 x 20 pixels"),
        ("b.jpg,1,1,2,20", r"row 3: box .* is not inside of in/b\.jpg, of 30 x 20 pixels"),
        ("a.png,-1,1,3,2", "row 3: box .* is not inside"),
        ("a.png,5,1,3,2", r"row 3: box \[5, 1, 3, 2\] is empty"),
        ("a.png,one,1,3,2", "row 3: x0 'one' is no number"),
        ("a.png,1,1,3,", "row 3: y1 '' is no number"),
        ("a.png,1,1,inf,3", "row 3: x1 inf is not finite"),
        (",1,1,3,3", "row 3: no file is named"),
    ],
)
def test_mistakes_are_told_with_their_row(tmp_path: Path, images: dict[str, Path], row: str, message: str) -> None:
    file = written(tmp_path, f"file,x0,y0,x1,y1\na.png,1,1,2,2\n{row}\n")
    with pytest.raises(UserError, match=message):
        match_prompts(file, read_prompts(file, NAMES), images)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("file,x0,y0\na,1,2\n", ".csv", "columns file, x0, y0; give COCO JSON"),
        ("file,x,y,size\na,1,2,3\n", ".csv", "unknown column 'size'"),
        ("file,x,y,point_label\na,1,2,3\n", ".csv", "row 2: point_label '3'; must be 1"),
        ("file,x,y\n", ".csv", "holds no prompt"),
        ([], ".json", "holds no prompt"),
        ({"images": []}, ".json", "has no annotations"),
        ("{", ".json", "cannot be read as JSON"),
        (COCO | {"images": []}, ".json", "annotation 1: image_id 7 is not in images"),
        (COCO | {"annotations": [{"image_id": 7, "bbox": [1, 1, 0, 4]}]}, ".json", r"bbox \[1, 1, 0, 4\] is empty"),
        (COCO | {"annotations": [{"image_id": 7, "bbox": [1, 1, 4]}]}, ".json", "give left, top, width and height"),
        (COCO | {"annotations": [{"image_id": 7}]}, ".json", "annotations.0.bbox"),
    ],
)
def test_files_that_hold_no_prompts_are_refused(tmp_path: Path, content: Any, suffix: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_prompts(written(tmp_path, content, suffix), NAMES)
    with pytest.raises(UserError, match="does not exist"):
        read_prompts(tmp_path / "nothing.csv", NAMES)


def test_the_data_set_s_own_images_are_prompted_whatever_their_split(tmp_path: Path) -> None:
    truth = write_kaggle(tmp_path / "data")
    names = sorted(truth)[:3]
    file = written(tmp_path, "file,x,y\n" + "".join(f"{name},1,1\n" for name in names))
    data = Severstal(str(tmp_path / "data"), img_size=32, num_workers=0, prompts=str(file), eval_batch_size=2)
    batches = list(data.predict_dataloader())
    assert sorted(name for batch in batches for name in batch["name"]) == names
    assert all("masks" not in batch and "class_ids" in batch for batch in batches)
    assert data.has_prompts()
    write_image(tmp_path / "new" / "c.png", 3)
    fields = {"prompts": str(file), "predict_path": str(tmp_path / "new")}
    with pytest.raises(UserError, match="is none of the 1 image"):
        Severstal(str(tmp_path / "data"), **fields).predict_dataloader()  # type: ignore[arg-type]
