"""`eomt.load`: every form of trained weights gives the same function of images."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eomt
from eomt.predictors.segmentation import SegmentationPredictor
from tests.cli_runs import Workspace, make_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = make_workspace(tmp_path_factory.mktemp("loading"))
    found.fit("run")
    found.run("merge", "--ckpt_path", "best", "--run_name", "run", "--output", str(found.folder / "merged"))
    return found


@pytest.fixture(scope="module")
def images(workspace: Workspace) -> list[Path]:
    return sorted((workspace.folder / "data" / "test" / "images").iterdir())


def best(workspace: Workspace) -> Path:
    return next((workspace.runs / "run").glob("best_lora_step*.ckpt"))


@pytest.mark.parametrize("form", ["run", "adapter", "merged", "moved"])
def test_every_form_of_weights_answers_the_same(workspace: Workspace, images: list[Path], form: str) -> None:
    checkpoint = best(workspace)
    path = {
        "run": workspace.runs / "run",
        "adapter": checkpoint.with_suffix(""),
        "merged": workspace.folder / "merged",
        "moved": workspace.folder / "elsewhere",
    }[form]
    if form == "moved" and not path.exists():
        shutil.copytree(workspace.folder / "merged", path)
    expected = eomt.load(checkpoint, "cpu").predict(images, anomaly=["rba"])
    found = eomt.load(str(path), "cpu").predict(images, anomaly=["rba"])
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one.anomaly["rba"], other.anomaly["rba"], atol=1e-5)
        assert (one.class_map == other.class_map).mean() > 0.999
        assert list(one.class_names) == list(other.class_names)
    assert len({int(value) for result in found for value in np.unique(result.class_map)}) > 1


def test_predict_and_load_paint_the_same_masks(workspace: Workspace, images: list[Path]) -> None:
    folder = images[0].parent
    workspace.run("predict", "--ckpt_path", str(best(workspace)), "--data.predict_path", str(folder), config=False)
    model = eomt.load(workspace.runs / "run", "cpu")
    for image in images:
        with Image.open(workspace.runs / "run" / "predictions" / "masks" / image.name) as mask:
            np.testing.assert_array_equal(np.asarray(mask), model.predict(image).class_map)


def test_one_image_and_a_list_of_any_sizes(workspace: Workspace, images: list[Path]) -> None:
    model = eomt.load(workspace.runs / "run", "cpu")
    assert isinstance(model, SegmentationPredictor)
    wide = np.tile(np.asarray(Image.open(images[0])), (1, 3, 1))
    several = model.predict([images[0], wide])
    assert [result.size for result in several] == [(32, 48), (32, 144)]
    np.testing.assert_array_equal(model.predict(images[0]).class_map, several[0].class_map)
    assert several[0].name == images[0].name
    assert model.predict([]) == []


def test_loading_leaves_random_numbers_and_settings_alone(workspace: Workspace) -> None:
    random.seed(3)
    torch.manual_seed(3)
    np.random.seed(3)
    before = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.is_grad_enabled())
    model = eomt.load(workspace.runs / "run", "cpu")
    after = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.is_grad_enabled())
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert str(best(workspace)) in repr(model)


def test_what_cannot_be_loaded_is_said_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(eomt.UserError, match="does not exist"):
        eomt.load(tmp_path / "nothing")
    with pytest.raises(eomt.UserError, match=r"there is no config\.yaml"):
        eomt.load(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "training.log"):
        shutil.copy(workspace.runs / "run" / name, run)
    with pytest.raises(eomt.UserError, match="this run has no checkpoint"):
        eomt.load(run)
    torn = run / "best_lora_step8.ckpt"
    torn.write_bytes(best(workspace).read_bytes()[:-200])
    with pytest.raises(eomt.UserError, match="no checkpoint"):
        eomt.load(torn)
    with pytest.raises(eomt.UserError, match=r"device: 'toaster'"):
        eomt.load(workspace.runs / "run", "toaster")


def test_a_base_that_is_not_here_is_said_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    """The parser put thirty lines around it."""
    run = tmp_path / "run"
    shutil.copytree(workspace.runs / "run", run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(workspace.folder / "base"), str(tmp_path / "gone")))
    with pytest.raises(eomt.UserError, match="gone") as caught:
        eomt.load(run)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
