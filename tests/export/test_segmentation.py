"""A graph of semantic segmentation answers as the network does, without any library of networks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import eomt
from eomt.export.segmentation import SegmentationGraph
from eomt.metrics.anomaly_scores import SCORES, anomaly_maps
from eomt.models.eomt import EoMT, class_and_void_scores
from eomt.predictors.of_tasks import EoMTScorer
from eomt.predictors.segmentation import SegmentationPredictor
from eomt.tasks import SemanticSegmentation
from tests.export.exported import export
from tests.tiny import make_eomt, make_image

NAMES = ["road", "sky", "tree", "car", "man"]

# what runs in a process of its own: the answer, and the libraries that were loaded for it
LIGHT = """
import json, sys
import numpy as np
import eomt
found = eomt.load(sys.argv[1]).predict(sys.argv[2], anomaly=["msp"])
heavy = [name for name in sys.modules if name.split(".")[0] in ("lightning", "timm", "transformers", "torchmetrics")]
heavy += [name for name in sys.modules if name.startswith(("eomt.tasks.base", "eomt.models.eomt", "eomt.models.vit"))]
print(json.dumps({"classes": found.class_map.tolist(), "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def network() -> EoMT:
    torch.manual_seed(0)
    network = make_eomt()
    for parameter in (network.class_head.weight, network.q.weight, *(block.conv1.weight for block in network.upscale)):
        torch.nn.init.normal_(parameter, std=0.5)
    # a checkpoint from the middle of annealing: the last block is no longer masked
    network.attn_mask_probs.copy_(torch.tensor([0.6, 0.4]))
    network.class_names = NAMES
    return network.eval()


@pytest.fixture(scope="module")
def folder(network: EoMT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eomt") / "graphs"
    task = SemanticSegmentation(network, test_overlap=0.25, temperature=0.5)
    export(task, path, anomaly=tuple(SCORES))
    vars(network).pop("mask_probabilities")
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "image.png"
    # of the network's size: the example resizes with Pillow, which rounds in another way
    Image.fromarray(make_image(1)[0].permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.mark.parametrize("masked", [False, True])
def test_the_module_that_is_traced_scores_as_the_network_does(masked: bool) -> None:
    torch.manual_seed(1)
    network = make_eomt(masked_attn_enabled=masked).eval()
    with torch.no_grad():
        expected = class_and_void_scores(network(make_image())[-1], network.img_size)
        scores, *maps = SegmentationGraph(network, list(SCORES), 0.7, True)(make_image())
    torch.testing.assert_close(scores, expected)
    for index, image in enumerate(expected):
        for name, map_, found in zip(SCORES, anomaly_maps(SCORES, image, 0.7, True), maps, strict=True):
            torch.testing.assert_close(found[index], map_, msg=name)


@pytest.mark.parametrize("shape", [(32, 48), (40, 60), (70, 50)])
def test_images_of_any_size_are_segmented_as_by_the_network(
    network: EoMT, folder: Path, shape: tuple[int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    ours = eomt.load(folder)
    theirs = SegmentationPredictor(EoMTScorer(network), NAMES, torch.device("cpu"), ours.views, 3, 0.5)
    for found, expected in zip(ours.predict(images, SCORES), theirs.predict(images, SCORES), strict=True):
        assert np.ptp(expected.anomaly["msp"]) > 1e-3
        assert (found.class_map == expected.class_map).mean() > 0.999
        for name in SCORES:
            np.testing.assert_allclose(found.anomaly[name], expected.anomaly[name], atol=1e-4)


def test_neither_lightning_nor_a_network_is_loaded_to_run_it(folder: Path, picture: Path, network: EoMT) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, folder, picture], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["heavy"] == []
    assert np.array_equal(answer["classes"], eomt.load(folder).predict(picture).class_map)


def test_the_example_runs_with_numpy_pillow_and_onnxruntime_alone(
    folder: Path, picture: Path, network: EoMT, tmp_path: Path
) -> None:
    text = (folder / "example.py").read_text()
    assert len(text.splitlines()) <= 40
    blocked = "import sys; sys.modules |= dict.fromkeys(['torch', 'eomt', 'onnx', 'transformers']); "
    code = blocked + "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "example.py", picture, tmp_path / "classes.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    with torch.no_grad():
        classes = class_and_void_scores(network(make_image(1))[-1], network.img_size)[0, :-1].argmax(0).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "classes.png")), classes)
    shares = {name: round(float((classes == index).mean()), 4) for index, name in enumerate(NAMES)}
    assert json.loads(done.stdout) == shares


def test_the_graph_names_its_parts_and_no_file_of_this_machine(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    (image,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 3, 32, 48]
    assert [output.name for output in model.graph.output] == ["scores", *SCORES]
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not [word for word in (b"/tmp", b"site-packages", b"/home", b"/root") if word in content], file.name


def test_what_lies_beside_the_graph_is_true_of_it(folder: Path, network: EoMT) -> None:
    record = json.loads((folder / "export.json").read_text())
    check = record["checks"]["onnxruntime"]
    assert record["settings"]["class_names"] == NAMES
    assert record["settings"]["temperature"] == 0.5
    assert record["graphs"][0]["bytes"] == (folder / "model.onnx").stat().st_size
    assert check["differences"]["model"] < 1e-3
    assert check["metrics"]["val_iou"][0] == pytest.approx(check["metrics"]["val_iou"][1], abs=1e-3)
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    image = make_image(1)[0].permute(1, 2, 0).numpy()
    pixels = np.asarray(processor(image)["pixel_values"][0])
    # what is left to do leaves an image of that size alone: the graph scales and normalizes
    assert np.array_equal(pixels, make_image(1)[0].numpy())
    mean, std = network.encoder.colors
    assert tuple(processor.image_mean) == pytest.approx(mean)
    assert tuple(processor.image_std) == pytest.approx(std)
