"""Clicks and boxes, and the masks that they mean."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eomt.demo.models import BASE
from eomt.demo.prompted import BOX, EXCLUDE, INCLUDE, MOST_CLICKS, Drawing, Marked, Marks, PromptedWork, draw_marks
from eomt.errors import UserError
from eomt.predictors.prompted import PromptedPredictor
from tests.demo_server import picture, prompted_models


def test_every_change_can_be_undone() -> None:
    drawing = Drawing()
    states = [drawing.marks]
    for change in (
        lambda: drawing.click(3, 4, INCLUDE),
        lambda: drawing.click(5, 6, EXCLUDE),
        lambda: drawing.click(9, 8, BOX),
        lambda: drawing.click(1, 2, BOX),
        drawing.start_object,
        lambda: drawing.click(7, 7, INCLUDE),
        lambda: drawing.drag(6, 1, 2, 3),
        drawing.clear,
    ):
        change()
        states.append(drawing.marks)
    assert states[4].objects == (Marked(((3, 4, 1), (5, 6, 0)), (1, 2, 9, 8)),)
    assert states[3].corner == (9, 8)
    assert states[4].corner is None
    assert len(states[6].objects) == 2
    assert states[7].objects[1] == Marked(((7, 7, 1),), (2, 1, 6, 3))
    assert states[8] == Marks()
    for state in reversed(states[:-1]):
        drawing.undo()
        assert drawing.marks == state
    drawing.undo()
    assert drawing.marks == Marks()


def test_marks_are_bounded() -> None:
    drawing = Drawing()
    with pytest.raises(UserError, match="no click yet"):
        drawing.start_object()
    with pytest.raises(UserError, match="choose include"):
        drawing.click(0, 0, "erase")
    for _ in range(MOST_CLICKS):
        drawing.click(1, 1, INCLUDE)
    with pytest.raises(UserError, match="undo some"):
        drawing.click(1, 1, INCLUDE)


def test_objects_with_clicks_and_boxes_are_asked_as_the_predictor_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = PromptedWork(prompted_models(), tmp_path)
    encoded = []
    encode = PromptedPredictor.encode
    monkeypatch.setattr(PromptedPredictor, "encode", lambda self, image: encoded.append(1) or encode(self, image))
    session = work.open("key", str(picture(tmp_path)))
    assert len(work.masks("key", "trained", False)) == 0
    drawing = work.drawing("key")
    drawing.click(10, 12, INCLUDE)
    drawing.click(2, 3, EXCLUDE)
    drawing.start_object()
    drawing.click(4, 5, BOX)
    drawing.click(30, 20, BOX)
    found = work.masks("key", "trained", False)
    assert len(encoded) == 1
    with work.models.using("trained") as predictor:
        image = session.upload.pixels
        clicked = predictor.predict(image, points=[[10, 12], [2, 3]], point_labels=[1, 0])  # type: ignore[attr-defined]
        boxed = predictor.predict(image, boxes=[4, 5, 30, 20])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.masks, np.concatenate([clicked.masks, boxed.masks]))
    np.testing.assert_allclose(found.scores, np.concatenate([clicked.scores, boxed.scores]), atol=1e-6)
    assert found.name == "street.png"
    others = work.masks("key", BASE, False)
    assert not torch.equal(torch.from_numpy(others.logits), torch.from_numpy(found.logits))
    assert [Path(path).suffix for path in work.files("key", found)] == [".png", ".csv", ".json"]


def test_a_prompt_free_network_answers_without_a_click(tmp_path: Path) -> None:
    models = prompted_models(prompt_free=True, num_classes=3)
    work = PromptedWork(models, tmp_path)
    work.open("key", str(picture(tmp_path)))
    with models.using("trained") as predictor:
        expected = predictor.predict(work.sessions.of("key").upload.pixels)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(work.masks("key", "trained", False).masks, expected.masks)


def test_marks_are_drawn_where_they_were_made(tmp_path: Path) -> None:
    from PIL import Image

    plain = Image.new("RGB", (400, 200))
    drawn = draw_marks(plain, Marks((Marked(((10, 5, 1),)),)), 10)
    changed = np.asarray(drawn).any(2).nonzero()
    assert abs(changed[1].mean() - 105) < 1
    assert abs(changed[0].mean() - 55) < 1
