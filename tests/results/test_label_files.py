"""What is written for labeling tools is read again by the data modules of those formats, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.label_me import LabelMe
from datamodules.objects.yolo_segmentation import YoloSegmentation
from eomt.errors import UserError
from eomt.results import AnswerResult, MasksResult, SegmentationResult, save_labels

NAMES = ["background", "cell", "crack"]
SIZE = (60, 81)
RANDOM = np.random.default_rng(0)


def drawn_masks() -> np.ndarray:
    """Return masks of at least 20 pixels: a ring, blobs of several parts with holes, and a thin line."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - 25, columns - 30)
    ring = (distance < 20) & (distance > 12)
    blobs = [ndimage.gaussian_filter(RANDOM.random(SIZE), 2) > 0.54 for _ in range(3)]
    line = np.zeros(SIZE, dtype=bool)
    line[5, 3:40] = line[5:30, 40] = True
    masks = np.stack([ring, *blobs, line])
    assert masks.sum((1, 2)).min() >= 20
    return masks


def result(name: str) -> MasksResult:
    masks = drawn_masks()
    scores, labels = np.linspace(0.5, 1, len(masks), dtype=np.float32), ["cell", "cell", "crack", "cell", "crack"]
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    return MasksResult(image, masks, scores, np.zeros((5, 4)), labels, NAMES, np.zeros((5, 1, 1)), name=name)


@pytest.mark.parametrize(("kind", "reader"), [("yolo", YoloSegmentation), ("labelme", LabelMe)])
def test_masks_with_holes_and_parts_come_back_as_they_were(
    tmp_path: Path, kind: str, reader: type[ObjectDataModule]
) -> None:
    results = [result("a.png"), result("b.png")]
    folder = save_labels(results, tmp_path / "labels", kind)  # type: ignore[arg-type]
    images = folder / "images" if kind == "yolo" else folder
    images.mkdir(exist_ok=True)
    for one in results:
        Image.fromarray(one.image).save(images / one.name)
    # the same images serve training and validation until somebody splits them
    text = (folder / "data.yaml").read_text() if kind == "yolo" else ""
    if text:
        (folder / "data.yaml").write_text(text.replace("val: images\n", ""))
    data = reader(folder, batch_size=1, crop_size=SIZE, num_workers=0)
    assert data.object_names == ["cell", "crack"]
    (found_images,) = data.find_splits().values()
    assert [image.name for image in found_images] == ["a.png", "b.png"]
    for image, one in zip(found_images, results, strict=True):
        found = image.annotation.objects(SIZE, 1)
        assert [data.object_names[class_id] for class_id in found.class_ids] == one.labels
        np.testing.assert_array_equal(found.masks, one.masks)


def test_background_is_no_object_and_results_write_themselves(tmp_path: Path) -> None:
    class_map = np.zeros((6, 8), dtype=np.int64)
    class_map[1:3, 2:5] = 2
    one = SegmentationResult(np.zeros((6, 8, 3), dtype=np.uint8), class_map, NAMES, name="photos/a.jpg")
    folder = one.to_yolo(tmp_path / "yolo")
    assert (folder / "labels" / "photos" / "a.txt").read_text() == (
        "1 0.25 0.166667 0.625 0.166667 0.625 0.5 0.25 0.5\n"
    )
    assert "background" not in (folder / "data.yaml").read_text()
    (file,) = one.to_labelme(tmp_path / "labelme").rglob("*.json")
    assert file.relative_to(tmp_path / "labelme").as_posix() == "photos/a.json"


def test_images_that_would_share_a_file_and_results_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt: would be of a\.jpg and of a\.png; rename one"):
        save_labels([result("a.png"), result("a.jpg")], tmp_path, "yolo")
    with pytest.raises(UserError, match="no results"):
        save_labels([], tmp_path, "yolo")
    answer = AnswerResult(np.zeros((6, 8, 3), dtype=np.uint8), "what?", "that", name="a.png")
    with pytest.raises(UserError, match="has no masks"):
        answer.to_labelme(tmp_path)


def test_files_stay_in_their_folder(tmp_path: Path) -> None:
    save_labels([result("../../outside.png")], tmp_path / "inside", "labelme")
    assert [file.name for file in (tmp_path / "inside").iterdir()] == ["outside.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["inside"]
