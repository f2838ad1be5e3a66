"""A graph of a classifier answers as the network does, in each format."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from eomt.errors import UserError
from eomt.models import ImageClassifier
from eomt.predictors.classes import ClassPredictor
from eomt.tasks import ImageClassification
from tests.export.exported import export
from tests.tiny_classification import enlarge, make_classifier, make_images

NAMES = ["ape", "bee", "cat"]


def make_network(**arguments: Any) -> ImageClassifier:
    network = make_classifier(**arguments).eval()
    enlarge(network.classifier)
    network.class_names = NAMES
    return network


def picture(folder: Path) -> Path:
    Image.fromarray(make_images(1, 16, 24)[0].permute(1, 2, 0).numpy()).save(folder / "photo.png")
    return folder / "photo.png"


@pytest.mark.parametrize("several", [False, True])
def test_probabilities_are_those_of_the_network(several: bool, tmp_path: Path) -> None:
    network = make_network(multi_label=several, pooling="cls+mean")
    record = export(ImageClassification(network), tmp_path / "graphs")
    assert record.checks["onnxruntime"].differences["model"] < 1e-5
    photo = picture(tmp_path)
    found = eomt.load(tmp_path / "graphs").predict([photo] * 3)
    expected = ClassPredictor(network, NAMES, torch.device("cpu")).predict(photo)
    for result in found:
        np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-5)
        assert (result.label, result.multi_label) == (expected.label, several)
    if several:
        return
    run = [sys.executable, tmp_path / "graphs" / "example.py", photo]
    answer = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    # the middle of a picture as high as the network's: nothing is resized
    assert list(answer) == NAMES
    assert list(answer.values()) == pytest.approx(expected.probabilities.tolist(), abs=1e-4)


def test_a_program_of_pytorch_gives_the_same(tmp_path: Path) -> None:
    network = make_network()
    export(ImageClassification(network), tmp_path / "graphs", format="torch")
    program = torch.export.load(tmp_path / "graphs" / "model.pt2").module()
    torch.testing.assert_close(program(make_images(5))[1], network.scores(make_images(5)), atol=1e-6, rtol=1e-5)


def test_openvino_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network = make_network()
    record = export(ImageClassification(network), tmp_path / "graphs", format="openvino")
    assert record.checks["openvino"].differences["model"] < 1e-3
    photo = picture(tmp_path)
    expected = ClassPredictor(network, NAMES, torch.device("cpu")).predict(photo)
    found = eomt.load(tmp_path / "graphs").predict(photo)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


def test_another_number_of_classes_than_the_graph_has_is_refused(tmp_path: Path) -> None:
    export(ImageClassification(make_network()), tmp_path / "graphs")
    record = json.loads((tmp_path / "graphs" / "export.json").read_text())
    record["settings"]["class_names"].append("dog")
    (tmp_path / "graphs" / "export.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="do not fit image_classification"):
        eomt.load(tmp_path / "graphs")
