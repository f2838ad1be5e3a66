from pathlib import Path

import numpy as np
import pytest

from datamodules.segmentation.labels import LabelTable, declared_num_classes, infer_num_classes
from eomt.errors import UserError

FILE = Path("mask.png")
COLORS = [(0, 0, 0), (9, 0, 0), (0, 9, 0)]


def test_mapping_agrees_with_a_loop_over_pixels() -> None:
    class_map = {7: 0, 8: 1, 26: 2, 3: 255, 1000: 1}
    raw = np.random.default_rng(0).choice([*class_map, 77], (9, 11))
    ids = LabelTable(3, class_map, [77]).class_ids(raw, FILE)
    expected = [[255 if label == 77 else class_map[label] for label in row] for row in raw.tolist()]
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, expected)


def test_unknown_label_names_file_label_pixels_and_field() -> None:
    raw = np.array([[0, 1, 5], [5, 255, 1]])
    table = LabelTable(2, None, [255])
    message = r"mask\.png: label 5 \(2 pixels\).*class_map.*ignore_labels"
    with pytest.raises(UserError, match=message):
        table.class_ids(raw, FILE)
    with pytest.raises(UserError, match=message):
        table.classes_present({0: 1, 5: 2}, FILE)


def test_classes_present_leave_out_ignored_ones() -> None:
    assert LabelTable(3, {1: 0, 2: 1, 3: 2, 4: 255}, [9]).classes_present({1: 5, 3: 1, 4: 8, 9: 7}, FILE) == {0, 2}


@pytest.mark.parametrize(
    ("names", "class_map", "ignored", "colors", "expected"),
    [
        (None, None, [255], None, None),
        (["a", "b"], None, [255], None, 2),
        (None, {4: 0, 5: 1, 6: 1, 7: 255}, [255], None, 2),
        (None, None, [255], COLORS, 3),
        (None, None, [2], COLORS, 2),
        (["a", "b"], {0: 0, 1: 1, 2: 255}, [], COLORS, 2),
    ],
)
def test_number_of_classes_follows_the_fields(names, class_map, ignored, colors, expected) -> None:
    assert declared_num_classes(names, class_map, ignored, colors) == expected


@pytest.mark.parametrize(
    ("names", "class_map", "ignored", "colors", "message"),
    [
        (["a", "b"], {0: 0, 1: 1, 2: 2}, [], None, "class_names has 2 classes, class_map has 3"),
        (["a", "b"], None, [], COLORS, "class_colors has 3"),
        (["a", "a"], None, [], None, "class_names: 'a'"),
        (["a"], None, [], None, "class_names: 1 classes"),
        (None, {0: 0, 1: 2}, [], None, r"class_map: class ids \[0, 2\]"),
        (None, {0: 0, 255: 1}, [255], None, "ignore_labels: label 255 is also a class"),
        (["a", "b"], None, [1], None, "ignore_labels: label 1 is also a class"),
        (None, {-1: 0, 1: 1}, [], None, "class_map: label -1"),
        (None, None, [70000], None, "ignore_labels: label 70000"),
        (None, None, [], [(0, 0, 0), (0, 0, 0)], "class_colors"),
        (None, None, [], [(0, 0, 0), (0, 0, 256)], "class_colors"),
    ],
)
def test_contradicting_fields_are_refused(names, class_map, ignored, colors, message: str) -> None:
    with pytest.raises(UserError, match=message):
        declared_num_classes(names, class_map, ignored, colors)


def test_classes_are_found_in_the_labels() -> None:
    assert infer_num_classes({0, 1, 2, 255}, [255]) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0, 255}, r"class_map: \{0: 0, 255: 1\} and ignore_labels: \[\]"),
        ({0}, "labels 0, of which fewer than two"),
        ({0, 1, 3}, r"labels 0, 1, 3, but no 2.*class_map: \{0: 0, 1: 1, 3: 2\}"),
    ],
)
def test_labels_that_are_no_class_ids_come_with_a_proposal(labels: set[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        infer_num_classes(labels, [255])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("num_classes", [2, 254, 255])
def test_every_label_becomes_its_class_whatever_the_depth_of_the_mask(num_classes: int, dtype: type) -> None:
    table = LabelTable(num_classes, None, [255])
    raw = np.array([[*range(num_classes), 255]], dtype=dtype)
    ids = table.class_ids(raw, FILE)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, raw)
    for unknown in range(num_classes, 255):
        raw[0, 1] = unknown
        with pytest.raises(UserError, match=rf"mask\.png: label {unknown} \(1 pixels\) is neither"):
            table.class_ids(raw, FILE)
