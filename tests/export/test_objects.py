"""Graphs of instance and panoptic segmentation answer as the network does, without any library of networks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import eomt
from eomt.predictors.of_tasks import predictor_of
from eomt.tasks import InstanceSegmentation, PanopticSegmentation
from tests.export.exported import export
from tests.tiny import make_eomt

NAMES = ["cell", "debris", "water"]
CPU = torch.device("cpu")
LIGHT = """
import json, sys
import eomt
found = eomt.load(sys.argv[1]).predict(sys.argv[2])
heavy = [name for name in sys.modules if name.split(".")[0] in ("lightning", "timm", "transformers", "torchmetrics")]
heavy += [name for name in sys.modules if name.startswith(("eomt.tasks.base", "eomt.models.eomt", "eomt.models.vit"))]
print(json.dumps({"rows": found.rows(), "heavy": heavy}))
"""


@pytest.fixture(
    scope="module", params=["instance", pytest.param("panoptic", marks=pytest.mark.slow)]
)  # the graphs are alike
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    """A task whose queries are sure of something, its folder of graphs, and what the folder says."""
    torch.manual_seed(0)
    network = make_eomt(num_classes=3)
    with torch.no_grad():
        for parameter in (network.class_head.weight, network.q.weight, network.mask_head[4].weight):
            torch.nn.init.normal_(parameter, std=0.5)
    network.attn_mask_probs.copy_(torch.tensor([0.6, 0.4]))
    network.class_names = NAMES
    if request.param == "instance":
        task: Any = InstanceSegmentation(network, score_threshold=0.3)
    else:
        task = PanopticSegmentation(network, stuff_classes=[2], score_threshold=0.3, overlap_threshold=0.2)
    folder = tmp_path_factory.mktemp("objects") / "graphs"
    record = export(task.eval(), folder)
    vars(network).pop("mask_probabilities")
    return task, folder, record


def images_of(size: tuple[int, int], count: int = 2) -> list[np.ndarray]:
    coarse = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    smooth = (F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).byte()
    return [image.permute(1, 2, 0).contiguous().numpy() for image in smooth]


@pytest.mark.parametrize("size", [(32, 48), (40, 30), (90, 120)])
def test_images_of_any_size_are_answered_as_by_the_network(exported: Any, size: tuple[int, int]) -> None:
    task, folder, _ = exported
    images = images_of(size)
    found = eomt.load(folder).predict(images)
    expected = predictor_of(task, NAMES, {}, CPU).predict(images)
    assert sum(map(len, expected)) > 1
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours.rows(), theirs.rows(), strict=True):
            assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-4)
            assert one.pop("pixels") == pytest.approx(other.pop("pixels"), abs=2)
            assert one == other or "x0" in one
        assert np.mean(np.asarray(ours.png()) == np.asarray(theirs.png())) > 0.999


def test_the_gate_compares_answers(exported: Any) -> None:
    task, folder, record = exported
    check = record.checks["onnxruntime"]
    assert check.differences["model"] < 1e-3
    assert set(check.metrics) == {f"val_{name}" for name in task.file_metrics}
    said = json.loads((folder / "export.json").read_text())["settings"]
    assert said["num_queries"] == 6
    assert said["class_names"] == NAMES
    assert "fitted into" in (folder / "README.md").read_text()
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_pad"] is True


@pytest.mark.slow
def test_neither_lightning_nor_a_network_is_loaded_to_run_it_and_the_example_answers_alike(
    exported: Any, tmp_path: Path
) -> None:
    _, folder, _ = exported
    # of the network's size, where nothing is resized
    Image.fromarray(images_of((32, 48))[0]).save(tmp_path / "image.png")
    expected = eomt.load(folder).predict(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, folder, tmp_path / "image.png"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["heavy"] == []
    assert answer["rows"] == expected.rows()
    text = (folder / "example.py").read_text()
    assert len(text.splitlines()) <= 55
    blocked = "import sys; sys.modules |= dict.fromkeys(['torch', 'eomt', 'onnx', 'transformers']); "
    code = blocked + "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "example.py", tmp_path / "image.png", tmp_path / "found.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = sorted((one["class"], round(one["score"], 3)) for one in json.loads(done.stdout))
    assert found == sorted((row["class"], round(row["score"], 3)) for row in expected.rows())
    assert np.asarray(Image.open(tmp_path / "found.png")).max() == len(expected)
