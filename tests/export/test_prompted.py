"""Graphs of SAM 2 answer every kind of prompt as the network does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from eomt.models import SAM2
from eomt.predictors.prompted import PromptedPredictor
from eomt.tasks import PromptedSegmentation
from tests.export.exported import export
from tests.tiny_sam2 import make_boxes, make_image, make_points, make_sam2

# of another shape than square, whose maps no window covers without a rest
SIZE = (64, 96)


@pytest.fixture(scope="module")
def network() -> SAM2:
    return make_sam2(SIZE, prompt_free=True, num_classes=2)


@pytest.fixture(scope="module")
def folder(network: SAM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    assert network.presence is not None
    torch.nn.init.normal_(network.presence.weight, std=0.05)
    path = tmp_path_factory.mktemp("sam2") / "graphs"
    export(PromptedSegmentation(network), path)
    return path


@pytest.mark.parametrize("kinds", ["points", "boxes", "masks", "points boxes", "points boxes masks", ""])
@pytest.mark.parametrize("multimask", [True, False])
def test_every_prompt_is_answered_as_by_the_network(network: SAM2, folder: Path, kinds: str, multimask: bool) -> None:
    model = eomt.load(folder).model
    images = make_image(2, *SIZE)
    points, labels = make_points()
    given = {}
    if "points" in kinds:
        # an object without a prompt in a batch has padding
        labels[1, 2] = -10
        given |= {"points": points, "labels": labels}
    if "boxes" in kinds:
        given["boxes"] = make_boxes()
    if "masks" in kinds:
        given["masks"] = torch.randn(2, 3, 1, *network.mask_size, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = network.decode(network.encode(images), **given, multimask=multimask)
    found = model.decode(model.encode(images), **given, multimask=multimask)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_classes_are_found_as_by_the_network(network: SAM2, folder: Path) -> None:
    model = eomt.load(folder).model
    images = make_image(1, *SIZE)
    with torch.no_grad():
        expected = network.decode_classes(network.encode(images))
    for ours, theirs in zip(model.decode_classes(model.encode(images)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_predictor_cuts_out_the_same(network: SAM2, folder: Path) -> None:
    image = make_image(1, 40, 50)[0].permute(1, 2, 0).numpy()
    ours = eomt.load(folder).predict(image, boxes=[[3, 4, 30, 35]], points=[[10, 10]])
    theirs = PromptedPredictor(network.eval(), ["a", "b"], torch.device("cpu")).predict(
        image, boxes=[[3, 4, 30, 35]], points=[[10, 10]]
    )
    assert np.array_equal(ours.masks, theirs.masks)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_the_example_cuts_out_what_the_predictor_does(folder: Path, tmp_path: Path) -> None:
    # of the network's size: the example resizes with Pillow, which rounds in another way
    image = make_image(1, *SIZE)[0].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "image.png")
    box = [3, 4, 60, 35]
    run = [sys.executable, folder / "example.py", tmp_path / "image.png", *map(str, box), tmp_path / "mask.png"]
    said = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    expected = eomt.load(folder).predict(image, boxes=[box])
    assert said["iou"] == pytest.approx(float(expected.scores[0]), abs=1e-4)
    with Image.open(tmp_path / "mask.png") as mask:
        assert (np.asarray(mask) == 255 * expected.masks[0]).mean() > 0.99
