"""A graph of a detector of morphs scores as the network does, in each format and precision."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from eomt.errors import UserError
from eomt.export import comparison
from eomt.export.morph import MorphGraph
from eomt.models import MorphDetector
from eomt.predictors.faces import MorphPredictor
from eomt.tasks import MorphDetection
from tests.export.exported import export
from tests.tiny_morph import enlarge_weights, make_detector, make_image


@pytest.fixture(scope="module")
def network() -> MorphDetector:
    network = make_detector(head="mlp")
    enlarge_weights(network)
    network.get_buffer("threshold").fill_(0.25)
    return network.eval()


def picture(folder: Path) -> Path:
    Image.fromarray(make_image(1, 32, 48)[0].permute(1, 2, 0).numpy()).save(folder / "face.png")
    return folder / "face.png"


def test_scores_and_threshold_are_those_of_the_network(network: MorphDetector, tmp_path: Path) -> None:
    record = export(MorphDetection(network), tmp_path / "graphs")
    assert record.checks["onnxruntime"].differences["model"] < 1e-5
    face = picture(tmp_path)
    predictor = eomt.load(tmp_path / "graphs")
    found = predictor.predict([face] * 3)
    expected = MorphPredictor(network, 0.25, torch.device("cpu")).predict(face)
    assert [result.score for result in found] == pytest.approx([expected.score] * 3, abs=1e-5)
    assert (found[0].threshold, found[0].is_morph) == (0.25, expected.is_morph)
    assert predictor.predict([]) == []
    # the numbers of a face do not hang on its batch
    whole = predictor.model.scores(make_image(7)).numpy()
    single = np.concatenate([predictor.model.scores(image[None]).numpy() for image in make_image(7)])
    np.testing.assert_allclose(whole, single, atol=1e-6)
    run = [sys.executable, tmp_path / "graphs" / "example.py", face]
    answer = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    # the middle of a picture as high as the network's: nothing is resized
    assert answer == {"score": pytest.approx(expected.score, abs=1e-4), "is_morph": expected.is_morph}


def test_half_precision_takes_and_returns_full_precision(network: MorphDetector, tmp_path: Path) -> None:
    record = export(MorphDetection(network), tmp_path / "graphs", dtype="fp16")
    assert record.graphs[0].outputs[0].dtype == "float32"
    full = sum(parameter.numel() * 4 for parameter in network.parameters())
    assert record.graphs[0].bytes < 0.75 * full
    assert 1e-6 < record.checks["onnxruntime"].differences["model"] < comparison.TOLERANCE["fp16"]
    assert next(network.parameters()).dtype == torch.float32


def test_a_program_of_pytorch_needs_no_network(network: MorphDetector, tmp_path: Path) -> None:
    record = export(MorphDetection(network), tmp_path / "graphs", format="torch")
    assert record.opset is None
    assert not (tmp_path / "graphs" / "example.py").exists()
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module(); "
        "print(program(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))[1].tolist()); assert 'eomt' not in sys.modules"
    )
    run = [sys.executable, "-c", code, tmp_path / "graphs" / "model.pt2"]
    scores = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    expected = network.scores(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)).tolist()
    assert scores == pytest.approx(expected, abs=1e-6)
    content = (tmp_path / "graphs" / "model.pt2").read_bytes()
    assert b"site-packages" not in content
    assert b"mae_encoder.py" not in content
    with pytest.raises(UserError, match=r"a program of PyTorch; open it with torch\.export\.load"):
        eomt.load(tmp_path / "graphs")


def test_openvino_runs_its_own_files(network: MorphDetector, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    record = export(MorphDetection(network), tmp_path / "graphs", format="openvino")
    assert {path.name for path in (tmp_path / "graphs").iterdir()} >= {"model.xml", "model.bin", "export.json"}
    assert record.checks["openvino"].differences["model"] < 1e-3
    face = picture(tmp_path)
    expected = MorphPredictor(network, 0.25, torch.device("cpu")).predict(face)
    assert eomt.load(tmp_path / "graphs").predict(face).score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_graph_that_answers_otherwise_leaves_nothing(
    network: MorphDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    before = MorphGraph.forward

    def changed(self: MorphGraph, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, scores = before(self, image)
        # what is traced is not what is called
        return (logits * factor if torch.compiler.is_exporting() else logits), scores

    monkeypatch.setattr(MorphGraph, "forward", changed)
    (tmp_path / "graphs").mkdir()
    with pytest.raises(UserError, match="and nothing was written"):
        export(MorphDetection(network), tmp_path / "graphs")
    assert list((tmp_path / "graphs").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["graphs"]


def test_another_figure_of_the_task_leaves_nothing(
    network: MorphDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([{"val_eer": 0.25}, {"val_eer": 0.26}])
    monkeypatch.setattr("eomt.export.morph._measure", lambda model, batches: next(figures))
    with pytest.raises(UserError, match=r"val_eer is 0\.2600 by onnxruntime and 0\.2500 by PyTorch on a synthetic"):
        export(MorphDetection(network), tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


def test_figures_are_equal_but_for_a_tolerance() -> None:
    assert comparison.same_figure(math.nan, math.nan, 0.001)
    assert not comparison.same_figure(math.nan, 0.5, 0.001)
    assert comparison.same_figure(0.5, 0.5009, 0.001)
    assert not comparison.same_figure(0.5, 0.502, 0.001)
