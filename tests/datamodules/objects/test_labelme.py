import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.common.orientation import TURNS
from datamodules.common.reading import check_image, orientation_of
from datamodules.objects.label_me import LabelMe
from eomt.errors import UserError
from tests.datamodules.objects.test_yolo import write_image

SIZE = (8, 12)
SQUARE = [[2, 1], [6, 1], [6, 5], [2, 5]]


def shape(label: str = "cell", points: Any = SQUARE, **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None} | fields


def write_labelme(folder: Path, *shapes: dict[str, Any], **fields: Any) -> Path:
    write_image(folder / "a.png", SIZE)
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageData": None, "imageHeight": 8, "imageWidth": 12}
    (folder / "a.json").write_text(json.dumps(content | fields))
    return folder


def read(folder: Path, **fields: Any) -> np.ndarray:
    (image,) = LabelMe(folder, batch_size=1, **fields).find_splits()["all"]
    return image.annotation.objects(check_image(image.image), orientation_of(image.image)).masks


def test_shapes_of_a_label_and_a_group_are_one_object(tmp_path: Path) -> None:
    far = [[8, 5], [11, 5], [11, 8], [8, 8]]
    shapes = [shape(group_id=1), shape(points=far, group_id=1), shape("crack", far, group_id=1), shape(), shape()]
    masks = read(write_labelme(tmp_path, *shapes))
    assert masks.sum((1, 2)).tolist() == [16 + 9, 9, 16, 16]


def test_rectangles_are_drawn_from_any_corner_and_no_classes_are_left_out(tmp_path: Path) -> None:
    shapes = [shape(points=[[6, 5], [2, 1]], shape_type="rectangle"), shape("__ignore__"), shape("_background_")]
    masks = read(write_labelme(tmp_path, *shapes))
    assert masks.sum((1, 2)).tolist() == [16]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("turned", [True, False])
def test_shapes_follow_the_image(tmp_path: Path, orientation: int, turned: bool) -> None:
    """labelme shows images as they are turned; a file may have the stored size, too."""
    exif = Image.Exif()
    exif[274] = orientation
    mask = np.zeros(SIZE, dtype=bool)
    mask[1:5, 2:6] = True
    size = TURNS[orientation](mask).shape
    is_turned = turned and size != SIZE
    write_labelme(tmp_path, shape(), imageHeight=size[0] if is_turned else 8, imageWidth=size[1] if is_turned else 12)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png", exif=exif)
    (found,) = read(tmp_path)
    if size == SIZE:
        expected = mask
    elif is_turned:
        expected = np.zeros(size, dtype=bool)
        expected[1:5, 2:6] = True
    else:
        expected = TURNS[orientation](mask)
    np.testing.assert_array_equal(found, expected)


def test_a_wrong_path_of_the_image_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_labelme(tmp_path, shape(), imagePath="C:\\photos\\b.png")
    assert len(read(tmp_path)) == 1
    assert "imagePath of 1 file leads nowhere" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.json: no image .*and none is inside"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (shape(points=[[1, 1]], shape_type="point"), r"a\.json: shape 0 \(cell\): a point, which is no area"),
        (shape(points=[[1, 1], [2, 2]], shape_type="line"), "a line, which is no area"),
        (shape(points=[[1, 1]], shape_type="circle"), "a circle of 1 point; it has 2"),
        (shape(points=[[1, 1], [2, 2]]), "shape 0: a polygon of 2 points"),
        (shape(points=[[1, 1], [90, 2], [4, 4]]), r"point \(90, 2\) is outside"),
        (shape(points=[[1, 1], [3, 3]], shape_type="mask"), "a mask without pixels"),
        (shape(points=[[1, 1], [3, 3]], shape_type="mask", mask="no PNG!"), "shape 0: mask is not base64"),
        (shape(points=[[1]]), "shapes.0.points.0"),
    ],
)
def test_shapes_that_are_no_object_are_named(tmp_path: Path, found: dict[str, Any], message: str) -> None:
    write_labelme(tmp_path, found)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_other_sizes_and_unknown_labels_are_named(tmp_path: Path) -> None:
    write_labelme(tmp_path, shape(), imageHeight=9)
    with pytest.raises(UserError, match=r"imageHeight, imageWidth 9 x 12 for an image of 8 x 12"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"a\.json: unknown label 'cell'; must be one of crack"):
        read(tmp_path, class_names=["crack"])


@pytest.mark.parametrize("text", ["", '{"shapes": [', '{"shapes": [{"label": "cell", "points": [[NaN, 1]]}]}'])
def test_a_damaged_file_is_refused_and_not_lost(tmp_path: Path, text: str) -> None:
    write_labelme(tmp_path, shape())
    write_image(tmp_path / "b.png", SIZE)
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UserError, match=r"b\.json: .*give LabelMe's JSON"):
        read(tmp_path)


def test_what_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_labelme(tmp_path, shape())
    write_image(tmp_path / "b.png", SIZE)
    (tmp_path / "package.json").write_text('{"name": 1}')
    assert len(read(tmp_path)) == 1
    assert "1 image without a JSON file, left out: b.png" in caplog.text
    assert "1 file not of LabelMe, left out: package.json" in caplog.text


@pytest.mark.parametrize("names", [("train", "valid"), ("Training", "Val"), ("TRAIN", "validation", "testing")])
def test_splits_have_the_names_that_tools_give_them(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*names, "later"):
        (tmp_path / name).mkdir()
        write_labelme(tmp_path / name, shape())
    found = LabelMe(tmp_path).find_splits()
    assert list(found) == ["train", "val", "test"][: len(names)]
    assert "later beside the splits: left out" in caplog.text


def test_test_images_are_never_mixed_into_training(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        write_labelme(tmp_path / name, shape())
    with pytest.raises(UserError, match="has images of train and test, and none of val; add some"):
        LabelMe(tmp_path, batch_size=1).setup()
