"""SAM 2 as a function of images and prompts, compared with transformers' own processor and model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Sam2Model

from eomt.errors import UserError
from eomt.models.weights.sam2.save import save_hugging_face
from eomt.predictors.prompted import PromptedPredictor
from tests.tiny_sam2 import make_sam2

# height and width of an image that is no square, and not of the network's size
SIZE = (90, 70)
BOXES = [[10.0, 20.0, 40.0, 60.0], [30.0, 5.0, 69.0, 89.0]]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Smooth blobs, so that a resize by another library differs by rounding alone."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(SIZE[::-1], Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def predictor() -> PromptedPredictor:
    return PromptedPredictor(make_sam2().eval(), ["scratch"], torch.device("cpu"))


@pytest.mark.parametrize("multimask", [False, True])
def test_transformers_answers_the_same(
    predictor: PromptedPredictor, image: Image.Image, tmp_path: Path, multimask: bool
) -> None:
    save_hugging_face(predictor.model, tmp_path / "sam2")  # type: ignore[arg-type]
    theirs, processor = (
        Sam2Model.from_pretrained(tmp_path / "sam2").eval(),
        AutoProcessor.from_pretrained(tmp_path / "sam2"),
    )
    points, labels = [[[20.0, 30.0], [50.0, 10.0]], [[60.0, 80.0], [5.0, 5.0]]], [[1, 0], [1, 1]]
    for ours, given in (
        ({"boxes": BOXES}, {"input_boxes": [BOXES]}),
        ({"points": points, "point_labels": labels}, {"input_points": [points], "input_labels": [labels]}),
    ):
        inputs: Any = processor(images=image, return_tensors="pt", **given)
        with torch.no_grad():
            found: Any = theirs(**inputs, multimask_output=multimask)
        best = found.iou_scores[0].argmax(1)
        masks = processor.post_process_masks(found.pred_masks, inputs["original_sizes"])[0]
        answer = predictor.predict(image, multimask=multimask, **ours)
        expected = masks[torch.arange(2), best].numpy()
        # transformers counts a box's corners half a pixel apart, and resizes in another library
        agreement = (answer.masks == expected).mean()
        assert agreement > 0.98, agreement
        assert 0.02 < expected.mean() < 0.98
        np.testing.assert_allclose(answer.scores, found.iou_scores[0].max(1).values, atol=0.02)


def test_an_image_is_encoded_once(predictor: PromptedPredictor, image: Image.Image, monkeypatch: Any) -> None:
    count = 0
    encode = predictor.model.encode

    def counted(images: torch.Tensor) -> Any:
        nonlocal count
        count += 1
        return encode(images)

    monkeypatch.setattr(predictor.model, "encode", counted)
    encoded = predictor.encode(image)
    together = predictor.predict(encoded, boxes=BOXES)
    for index, box in enumerate(BOXES):
        alone = predictor.predict(encoded, boxes=box)
        np.testing.assert_allclose(alone.logits[0], together.logits[index], atol=1e-4)
    assert count == 1
    np.testing.assert_array_equal(predictor.predict(image, boxes=BOXES).masks, together.masks)


def test_objects_with_different_numbers_of_clicks_are_answered_as_each_alone(
    predictor: PromptedPredictor, image: Image.Image
) -> None:
    encoded = predictor.encode(image)
    clicks: list[Any] = [[[20, 30]], [[50, 10], [60, 80]]]
    together = predictor.predict(encoded, points=clicks, point_labels=[[1], [1, 0]])
    for index, (points, labels) in enumerate(zip(clicks, ([1], [1, 0]), strict=True)):
        alone = predictor.predict(encoded, points=points, point_labels=labels)
        np.testing.assert_allclose(alone.logits[0], together.logits[index], atol=1e-4)


def test_a_result_says_where_its_objects_are(predictor: PromptedPredictor, image: Image.Image) -> None:
    result = predictor.predict(image, boxes=BOXES)
    assert result.masks.shape == (2, *SIZE)
    assert list(result.labels) == ["scratch"] * 2
    for mask, box in zip(result.masks, result.boxes, strict=True):
        rows, columns = mask.nonzero()
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert result.prompts is not None
    assert result.prompts.boxes.tolist() == BOXES


def test_an_answer_can_be_refined(predictor: PromptedPredictor, image: Image.Image) -> None:
    encoded = predictor.encode(image)
    first = predictor.predict(encoded, boxes=BOXES)
    refined = predictor.predict(encoded, boxes=BOXES, masks=first.logits)
    from_masks = predictor.predict(encoded, masks=first.masks)
    assert np.abs(refined.logits - first.logits).max() > 1e-3
    assert from_masks.masks.shape == first.masks.shape
    with pytest.raises(UserError, match=r"masks: torch.float32 of shape \[1, 3, 3\]"):
        predictor.predict(encoded, masks=np.zeros((3, 3), np.float32))


def test_each_image_of_a_list_has_its_own_prompts(predictor: PromptedPredictor, image: Image.Image) -> None:
    encoded = predictor.encode(image)
    one, two = predictor.predict([encoded, image], boxes=[BOXES[:1], BOXES], labels=[["scratch"], ["dent", "scratch"]])
    assert (len(one), len(two)) == (1, 2)
    assert list(two.class_names) == ["scratch", "dent"]
    np.testing.assert_array_equal(one.masks[0], two.masks[0])
    with pytest.raises(UserError, match="boxes: 1 entries for 2 images"):
        predictor.predict([encoded, image], boxes=[BOXES])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"no prompt; give boxes=, points= or masks="),
        ({"boxes": BOXES, "points": [1, 2]}, "boxes of 2, points of 1 objects"),
        ({"boxes": BOXES, "labels": ["scratch"]}, "labels: 1 for 2 objects"),
        ({"boxes": [1000, 1000, 1100, 1100]}, r"boxes: \[1000.0, .*\] is not inside of the image, of 70 x 90 pixels"),
        ({"points": [[20, 30], [-5, 2000]]}, r"points: \[-5.0, 2000.0\] is not inside of the image"),
    ],
)
def test_what_cannot_be_asked_is_said(
    predictor: PromptedPredictor, image: Image.Image, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        predictor.predict(image, **given)


def test_no_boxes_are_no_objects(predictor: PromptedPredictor, image: Image.Image) -> None:
    for nothing in ([], np.zeros((0, 4))):
        result = predictor.predict(image, boxes=nothing)
        assert len(result) == 0
        assert result.masks.shape == (0, *SIZE)
        assert result.annotations() == []
        assert np.asarray(result.draw()).tolist() == np.asarray(image).tolist()


def test_a_prompt_free_network_finds_its_classes(image: Image.Image) -> None:
    torch.manual_seed(0)
    network = make_sam2(prompt_free=True, num_classes=3).eval()
    assert network.presence is not None
    with torch.no_grad():
        network.presence.bias.copy_(torch.tensor([9.0, -9.0, 9.0]))
    predictor = PromptedPredictor(network, ["a", "b", "c"], torch.device("cpu"))
    result = predictor.predict(image)
    assert set(result.labels) <= {"a", "c"}
    assert len(result)
    # it answers prompts, too
    assert len(predictor.predict(image, boxes=BOXES)) == 2
