"""Results draw themselves, and become COCO JSON, PNG and CSV that others read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from eomt.errors import UserError
from eomt.prompts import Prompts
from eomt.results import (
    AnswerResult,
    ClassificationResult,
    MasksResult,
    MorphResult,
    ReconstructionResult,
    Result,
    SegmentationResult,
    coco_document,
    save_results,
)
from eomt.results.coco import mask_of, run_lengths

IMAGE = np.full((6, 9, 3), 100, np.uint8)
NAMES = ["road", "sky", "car"]


def segmentation(name: str = "a.png") -> SegmentationResult:
    classes = np.zeros((6, 9), np.int64)
    classes[:, 6:] = 2
    maps = {"rba": np.linspace(-1, 1, 54, dtype=np.float32).reshape(6, 9)}
    return SegmentationResult(IMAGE, classes, NAMES, maps, name=name)


def masks(labels: tuple[str, ...] = ("car", "sky", "car"), name: str = "b.png") -> MasksResult:
    found = np.zeros((3, 6, 9), bool)
    found[0, 1:5, 1:8] = True
    found[1, 2:4, 2:4] = True
    boxes = np.array([[1, 1, 7, 4], [2, 2, 3, 3], [0, 0, 0, 0]], np.float32)
    scores = np.array([0.9, 0.5, 0.1], np.float32)
    prompts = Prompts(None, None, torch.from_numpy(boxes[:2]))
    return MasksResult(IMAGE, found, scores, boxes, labels, NAMES, np.zeros((3, 2, 3), np.float32), prompts, name=name)


def test_run_lengths_give_the_mask_back() -> None:
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    lengths = run_lengths(mask)
    assert lengths["size"] == [7, 5]
    assert isinstance(lengths["counts"], str)
    np.testing.assert_array_equal(mask_of(lengths), mask)


def test_a_segmentation_says_what_it_holds() -> None:
    result = segmentation()
    assert result.size == (6, 9)
    assert result.labels == ["road", "car"]
    np.testing.assert_array_equal(result.masks, [result.class_map == 0, result.class_map == 2])
    assert result.shares() == {"road": 36 / 54, "sky": 0.0, "car": 18 / 54}
    assert result.rows()[1] == {"file": "a.png", "class": "car", "pixels": 18, "share": 18 / 54}
    assert np.asarray(result.draw(alpha=0.0)).tolist() == IMAGE.tolist()
    drawn = np.asarray(result.draw())
    assert (drawn[0, 0] != drawn[0, 8]).any()
    anomalies = np.asarray(result.draw_anomaly()).astype(int).sum(2)
    assert anomalies[0, 0] == anomalies.min()
    assert anomalies[5, 8] == anomalies.max()
    with pytest.raises(UserError, match="no score 'msp'"):
        result.draw_anomaly("msp")


def test_the_png_of_a_segmentation_holds_class_ids(tmp_path: Path) -> None:
    result = segmentation()
    with Image.open(result.save(tmp_path / "a.png")) as read:
        assert read.mode == "P"
        np.testing.assert_array_equal(np.asarray(read), result.class_map)


def test_objects_have_numbers_in_their_png_and_smaller_ones_lie_on_top(tmp_path: Path) -> None:
    result = masks()
    with Image.open(result.save(tmp_path / "b.png")) as read:
        numbers = np.asarray(read)
    np.testing.assert_array_equal(numbers == 2, result.masks[1])
    np.testing.assert_array_equal(numbers == 1, result.masks[0] & ~result.masks[1])
    assert result.rows()[0] | {"score": 0.9} == {
        "file": "b.png",
        "object": 1,
        "label": "car",
        "score": 0.9,
        "pixels": 28,
        **{"x0": 1.0, "y0": 1.0, "x1": 7.0, "y1": 4.0},
    }


def test_objects_of_one_class_have_colors_of_their_own_and_classes_have_theirs() -> None:
    one, other = (np.asarray(masks(labels).draw(1.0)) for labels in (("car",) * 3, ("car", "sky", "car")))
    # inside of the larger object alone, away from the prompts
    assert one[3, 5].tolist() != other[3, 5].tolist()
    empty = MasksResult(IMAGE, *(np.zeros(shape) for shape in ((0, 6, 9), 0, (0, 4))), [], NAMES, np.zeros((0, 2, 3)))
    assert np.asarray(empty.draw()).tolist() == IMAGE.tolist()


def test_pycocotools_reads_what_several_results_become(tmp_path: Path) -> None:
    path = save_results([segmentation(), masks(), masks(("thing",) * 3, "c.png")][:2], tmp_path / "all.json")
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.png"]
    assert {found["name"]: found["id"] for found in coco.loadCats(coco.getCatIds())} == {"road": 1, "sky": 2, "car": 3}
    of_b = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    # an empty mask is no object
    assert [found["category_id"] for found in of_b] == [3, 2]
    np.testing.assert_array_equal(coco.annToMask(of_b[0]).astype(bool), masks().masks[0])
    assert of_b[0]["bbox"] == [1.0, 1.0, 7.0, 4.0]
    assert of_b[0]["area"] == 28
    assert of_b[0]["score"] == pytest.approx(0.9)
    ids = coco.getAnnIds()
    assert ids == list(range(1, len(ids) + 1))


def test_new_categories_follow_those_of_earlier_results() -> None:
    second = masks(("thing", "thing", "thing"), "c.png")
    second.class_names = [*NAMES, "thing"]
    document = coco_document([masks(), second])
    assert [found["name"] for found in document["categories"]] == [*NAMES, "thing"]
    assert document["annotations"][-1]["category_id"] == 4


def test_rows_of_several_results_are_one_table(tmp_path: Path) -> None:
    results = [MorphResult(IMAGE, 0.7, 0.5, name="a.png"), MorphResult(IMAGE, 0.2, None, False, name="b.png")]
    with save_results(results, tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"file": "a.png", "score": "0.7", "threshold": "0.5", "morph": "1", "processed": "1", "decision": "morph"},
        {
            "file": "b.png",
            "score": "0.2",
            "threshold": "",
            "morph": "",
            "processed": "0",
            "decision": "failed to process",
        },
    ]
    assert results[0].is_morph
    assert results[1].is_morph is None


def test_a_class_is_the_likeliest_and_labels_are_those_from_one_half_on() -> None:
    values = np.array([0.2, 0.5, 0.9], np.float32)
    one = ClassificationResult(IMAGE, values, NAMES, name="a.png")
    several = ClassificationResult(IMAGE, values, NAMES, multi_label=True)
    assert (one.label, one.labels, one.score) == ("car", ["car"], pytest.approx(0.9))
    assert (several.label, several.labels) == ("sky|car", ["sky", "car"])
    assert [name for name, _ in several.ranked()] == ["car", "sky", "road"]
    assert ClassificationResult(IMAGE, values / 10, NAMES, multi_label=True).label == ""
    (row,) = one.rows()
    assert list(row)[:3] == ["file", "label", "score"]
    assert row["probability of road"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "result",
    [
        MorphResult(IMAGE, 0.7, 0.5, name="a.png"),
        ClassificationResult(IMAGE, np.array([0.2, 0.7, 0.1], np.float32), NAMES, name="a.png"),
        AnswerResult(IMAGE, "What is it?", "câu trả lời", name="a.png"),
        ReconstructionResult(IMAGE, IMAGE, IMAGE + 10, name="a.png"),
    ],
)
def test_answers_without_masks_are_drawn_and_are_no_coco(result: Result, tmp_path: Path) -> None:
    picture = result.draw()
    assert picture.mode == "RGB"
    assert picture.width >= 9
    with pytest.raises(UserError, match="has no masks"):
        result.save(tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    assert result.save(tmp_path / "a.csv").read_text().count("\n") == 2
    with pytest.raises(UserError, match=r"ends in \.json"):
        result.save(tmp_path / "a.txt")


def test_text_of_an_answer_is_written_as_it_is(tmp_path: Path) -> None:
    result = AnswerResult(IMAGE, 'a "b", c', "câu", name="a.png")
    with result.save(tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file)) == {"file": "a.png", "question": 'a "b", c', "answer": "câu"}


def test_no_results_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results"):
        save_results([], tmp_path / "a.json")


def test_a_reconstruction_is_measured_against_its_image() -> None:
    assert ReconstructionResult(IMAGE, IMAGE * 0, IMAGE + 10).rows()[0]["difference"] == 10.0


def test_json_is_plain(tmp_path: Path) -> None:
    assert json.loads(segmentation().save(tmp_path / "a.json").read_text())["images"][0]["height"] == 6
