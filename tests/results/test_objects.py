"""Objects and segments draw themselves, and become COCO JSON, PNG and CSV that others read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from eomt.models.post_processing import Instances, Segments
from eomt.results import InstanceResult, PanopticResult, save_results
from eomt.results.objects import instance_result, panoptic_result
from eomt.utils.packed_masks import PackedMasks

IMAGE = np.full((30, 90, 3), 100, np.uint8)
NAMES = ["cell", "debris", "water"]


def instances(name: str = "a.png") -> InstanceResult:
    masks = torch.zeros(2, 30, 90, dtype=torch.bool)
    masks[0, 5:25, 10:40] = True
    masks[1, 10:15, 15:20] = True
    return instance_result(
        Instances(PackedMasks.of(masks), torch.tensor([1, 0]), torch.tensor([0.9, 0.5])), IMAGE, NAMES, name
    )


def segments(name: str = "b.png") -> PanopticResult:
    numbers = torch.zeros(30, 90, dtype=torch.int32)
    numbers[:, :30], numbers[:, 30:50], numbers[:, 50:60] = 1, 2, 3
    found = Segments(numbers, torch.tensor([2, 0, 0]), torch.tensor([0.9, 0.8, 0.7]))
    return panoptic_result(found, IMAGE, NAMES, [2], name)


def test_objects_say_what_they_are() -> None:
    result = instances()
    assert result.label_names == ["debris", "cell"]
    assert result.boxes.tolist() == [[10, 5, 39, 24], [15, 10, 19, 14]]
    assert result.rows()[1] == {
        "file": "a.png",
        "object": 2,
        "class": "cell",
        "score": 0.5,
        "pixels": 25,
        **{"x0": 15.0, "y0": 10.0, "x1": 19.0, "y1": 14.0},
    }
    assert repr(result) == "InstanceResult('a.png', 2 objects, 30 x 90 pixels)"


def test_objects_are_drawn_in_the_colors_of_their_classes_with_their_names() -> None:
    result = instances()
    plain = np.asarray(result.draw(1.0, texts=False))
    assert plain[20, 30].tolist() != plain[12, 17].tolist() != IMAGE[0, 0].tolist()
    assert (plain[:, 50:] == IMAGE[:, 50:]).all()
    assert (np.asarray(result.draw(1.0)) != plain).any()
    # where there is none, nothing is drawn
    empty = instance_result(Instances(PackedMasks.pack([], (30, 90)), *torch.zeros(2, 0)), IMAGE, NAMES, "")
    assert np.array_equal(np.asarray(empty.draw()), IMAGE)
    assert empty.boxes.shape == (0, 4)
    assert empty.rows() == empty.annotations() == []


def test_the_png_of_objects_holds_their_numbers(tmp_path: Path) -> None:
    result = instances()
    with Image.open(result.save(tmp_path / "a.png")) as read:
        numbers = np.asarray(read)
    np.testing.assert_array_equal(numbers == 2, result.masks[1])
    np.testing.assert_array_equal(numbers == 1, result.masks[0] & ~result.masks[1])


def test_segments_say_what_they_are() -> None:
    result = segments()
    assert [(one.id, one.class_name, one.is_thing) for one in result.segments] == [
        (1, "water", False),
        (2, "cell", True),
        (3, "cell", True),
    ]
    assert result.rows()[0] | {"score": 0.9} == {
        **{"file": "b.png", "segment": 1, "class": "water", "score": 0.9, "thing": 0, "pixels": 900}
    }
    classes = result.class_map
    assert np.unique(classes).tolist() == [-1, 0, 2]
    assert (classes[:, 60:] == -1).all()
    drawn = np.asarray(result.draw(1.0, texts=False))
    assert len({tuple(drawn[0, column]) for column in (0, 40, 55, 70)}) == 4
    assert (drawn[:, 60:] == IMAGE[:, 60:]).all()


def test_the_png_of_segments_is_coco_s_panoptic_one(tmp_path: Path) -> None:
    result = segments()
    result.segment_map[0, 0] = 66051  # 1 x 65536 + 2 x 256 + 3
    with Image.open(result.save(tmp_path / "b.png")) as read:
        pixels = np.asarray(read).astype(int)
    assert pixels[0, 0].tolist() == [3, 2, 1]
    np.testing.assert_array_equal(pixels @ [1, 256, 65536], result.segment_map)


def test_pycocotools_reads_objects_and_segments(tmp_path: Path) -> None:
    coco = COCO(str(save_results([instances(), segments()], tmp_path / "all.json")))
    assert {found["name"]: found["id"] for found in coco.loadCats(coco.getCatIds())} == dict(
        zip(NAMES, (1, 2, 3), strict=True)
    )
    of_a, of_b = (coco.loadAnns(coco.getAnnIds(imgIds=[image])) for image in (1, 2))
    assert [(found["category_id"], pytest.approx(found["score"])) for found in of_a] == [(2, 0.9), (1, 0.5)]
    np.testing.assert_array_equal(coco.annToMask(of_a[1]).astype(bool), instances().masks[1])
    assert [found["area"] for found in of_b] == [900, 600, 300]
