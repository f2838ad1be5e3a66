"""Prompts as people write them, brought to the shapes that networks take."""

from typing import Any

import numpy as np
import pytest
import torch

from eomt.errors import UserError
from eomt.predictors.prompt_shapes import as_boxes, as_clicks, count_of


@pytest.mark.parametrize("boxes", [[1, 2, 3, 4], [[1, 2, 3, 4]], np.array([1, 2, 3, 4]), torch.tensor([[1, 2, 3, 4]])])
def test_boxes(boxes: Any) -> None:
    found = as_boxes(boxes)
    assert found is not None
    assert found.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert as_boxes(None) is None


@pytest.mark.parametrize(
    ("points", "labels", "found", "signs"),
    [
        ([1, 2], None, [[[1, 2]]], [[1]]),
        ((1, 2), 0, [[[1, 2]]], [[0]]),
        ([[1, 2], [3, 4]], [1, 0], [[[1, 2], [3, 4]]], [[1, 0]]),
        ([[[1, 2]], [[3, 4]]], None, [[[1, 2]], [[3, 4]]], [[1], [1]]),
        ([[[1, 2]], [[3, 4], [5, 6]]], None, [[[1, 2], [0, 0]], [[3, 4], [5, 6]]], [[1, -10], [1, 1]]),
        ([[[1, 2]], [[3, 4], [5, 6]]], [[0], [1, 0]], [[[1, 2], [0, 0]], [[3, 4], [5, 6]]], [[0, -10], [1, 0]]),
        ([np.array([[1, 2]]), torch.tensor([[3, 4], [5, 6]])], None, [[[1, 2], [0, 0]], [[3, 4], [5, 6]]], None),
        (np.ones((2, 3, 2)), np.ones((2, 3), int), np.ones((2, 3, 2)).tolist(), np.ones((2, 3)).tolist()),
    ],
)
def test_clicks(points: Any, labels: Any, found: Any, signs: Any) -> None:
    clicks = as_clicks(points, labels)
    assert clicks is not None
    assert clicks[0].tolist() == found
    assert clicks[0].dtype == torch.float32
    assert clicks[1].dtype == torch.int32
    if signs is not None:
        assert clicks[1].tolist() == signs


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"boxes": [1, 2, 3]}, r"boxes: shape \[1, 3\]"),
        ({"boxes": [[5, 2, 3, 4]]}, "ends before it begins"),
        ({"boxes": [[float("nan"), 2, 3, 4]]}, "not finite"),
        ({"boxes": "left"}, "no table of numbers"),
        ({"points": []}, r"points: \[\]"),
        ({"points": [1, 2, 3]}, "points:"),
        ({"points": [[[[1, 2]]]]}, "points:"),
        ({"points": [1, 2], "labels": [1, 1]}, "one for each point"),
        ({"points": [1, 2], "labels": 2}, r"must be 1 \(on the object\) or 0"),
        ({"points": [[1, float("inf")]]}, "not finite"),
        ({"labels": [1]}, "there are no points"),
        ({"points": "here"}, "points"),
    ],
)
def test_what_is_no_prompt_is_said_in_one_line(given: dict[str, Any], said: str) -> None:
    def shape() -> None:
        as_boxes(given.get("boxes"))
        as_clicks(given.get("points"), given.get("labels"))

    with pytest.raises(UserError, match=said) as caught:
        shape()
    assert "\n" not in str(caught.value)


def test_prompts_are_of_as_many_objects() -> None:
    assert count_of(boxes=None, points=None, masks=None) is None
    assert count_of(boxes=torch.zeros(2, 4), points=None, masks=np.zeros((2, 8, 8))) == 2
    assert count_of(masks=np.zeros((8, 8))) == 1
    with pytest.raises(UserError, match="boxes of 2, points of 1 objects"):
        count_of(boxes=torch.zeros(2, 4), points=torch.zeros(1, 3, 2))
