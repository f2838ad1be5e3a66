"""What a run holds is kept, and what a command is given counts or is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli_runs import Workspace, make_workspace, refusal, write_images


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def half(workspace: Workspace) -> Path:
    """A run of four steps, of eight."""
    return workspace.fit("half", "--trainer.max_epochs", "1")


def final(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "final_lora_step8.ckpt", weights_only=True)["state_dict"]


def test_a_run_never_goes_back_but_branches_off(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(half, workspace.runs / "further")
    earlier = workspace.runs / "further" / "latest_lora_step4.ckpt"
    further = workspace.fit("further", "--ckpt_path", "latest")
    shutil.copy(half / earlier.name, earlier)
    before = {path: path.read_bytes() for path in further.rglob("*") if path.is_file()}
    back = ("fit", "--ckpt_path", str(earlier))
    assert "is of step 4, but its run went on to step 8" in refusal(capsys, workspace, *back)
    branch = workspace.fit("branch", "--ckpt_path", str(earlier))
    assert {path: path.read_bytes() for path in further.rglob("*") if path.is_file()} == before
    assert all(torch.equal(value, final(further)[name]) for name, value in final(branch).items())
    assert len(list(branch.glob("best_lora_*.ckpt"))) == 1
    # only a training branches off
    assert "leave run_name out" in refusal(capsys, workspace, "test", "--run_name", "x", *back[1:])


def test_a_branch_has_the_split_of_its_run(workspace: Workspace) -> None:
    flat = workspace.folder / "flat"
    write_images(flat, 20, 5)
    data = ("--data.path", str(flat), "--trainer.max_epochs")
    run = workspace.fit("split", *data, "1")
    for kind in ("images", "masks"):
        shutil.copy(flat / kind / "00.png", flat / kind / "more.png")
    branch = workspace.fit("split_branch", "--ckpt_path", str(next(run.glob("latest_*.ckpt"))), *data, "2")
    assert (branch / "splits.json").read_text() == (run / "splits.json").read_text()


def test_a_run_in_double_precision_resumes_to_the_same_bits(workspace: Workspace) -> None:
    precise = ("--trainer.precision", "64-true")
    whole = workspace.fit("double", *precise)
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit("double_cut", *precise, "--trainer.callbacks+", "tests.cli_runs.PowerCut")
    resumed = workspace.fit("double_cut", *precise, "--ckpt_path", "latest")
    assert final(whole)["network.class_head.weight"].dtype == torch.float64
    assert all(torch.equal(value, final(resumed)[name]) for name, value in final(whole).items())


def without_loops(checkpoint: dict[str, Any]) -> None:
    del checkpoint["loops"]


def without_callbacks(checkpoint: dict[str, Any]) -> None:
    del checkpoint["callbacks"]


def without_optimizer(checkpoint: dict[str, Any]) -> None:
    del checkpoint["optimizer_states"]


def with_nan(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["network.class_head.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_loops, "holds nothing to go on from: has no loops"),
        (without_callbacks, "holds nothing to go on from: has no callbacks"),
        (without_optimizer, "holds nothing to go on from: has no optimizer_states"),
        (with_nan, "'class_head.weight' holds values that are not finite"),
    ],
)
def test_a_training_goes_on_from_all_of_a_checkpoint_or_not_at_all(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: Any, message: str
) -> None:
    checkpoint = torch.load(half / "final_lora_step4.ckpt", weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    assert message in refusal(capsys, workspace, "fit", "--ckpt_path", str(tmp_path / "damaged.ckpt"))
    if damage is with_nan:
        assert message in refusal(capsys, workspace, "validate", "--ckpt_path", str(tmp_path / "damaged.ckpt"))


def test_predictions_of_an_earlier_command_are_kept(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_images(tmp_path, 2, 9)
    predict = ("predict", "--ckpt_path", str(half / "final_lora_step4.ckpt"), "--data.predict_path")
    workspace.run(*predict, str(workspace.folder / "data" / "val" / "images"), config=False)
    names = {path.name: path.read_bytes() for path in (half / "predictions" / "overlays").iterdir()}
    workspace.run(*predict, str(tmp_path / "images"), config=False)
    assert "what was there is kept in predictions_1" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (half / "predictions_1" / "overlays").iterdir()} == names
    assert sorted(path.name for path in (half / "predictions" / "overlays").iterdir()) == ["00.png", "01.png"]


def test_rows_of_a_logger_of_lightning_s_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    arguments = {"save_dir": str(tmp_path), "name": "mine", "version": 1}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": arguments}
    args = ("--trainer.logger", json.dumps(logger), "--trainer.max_epochs")
    workspace.fit("logged", *args, "1")
    folder = tmp_path / "mine" / "version_1"
    first = (folder / "metrics.csv").read_text()
    run = workspace.fit("logged", *args, "2", "--ckpt_path", "latest")
    second = (folder / "metrics.csv").read_text()
    # a command that measures has a logger, too
    best = str(next(run.glob("best_lora_*.ckpt")))
    workspace.run("validate", "--ckpt_path", best, *args[:2])
    assert (folder / "metrics_1.csv").read_text() == first
    assert (folder / "metrics_2.csv").read_text() == second


def test_a_line_of_pixels_is_refused(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((1, 20_000, 3), np.uint8)).save(tmp_path / "line.png")
    predict = ("predict", "--ckpt_path", str(half / "final_lora_step4.ckpt"), "--data.predict_path", str(tmp_path))
    error = refusal(capsys, workspace, *predict, config=False)
    assert "none of 1 image could be read" in error
    assert "line.png: has 1 x 20000 pixels" in error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--trust",), "trust: no config beside --ckpt_path is read, since --config is given"),
        (("--trainer.min_epochs", "3"), "trainer.min_epochs: 3, but max_epochs is 2"),
        (("--trainer.max_steps", "3", "--trainer.min_steps", "4"), "trainer.min_steps: 4, but max_steps is 3"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    assert message in refusal(capsys, workspace, "fit", *args)


def test_a_trial_on_few_batches_is_not_resumed(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--ckpt_path", str(half / "final_lora_step4.ckpt"), "--trainer.overfit_batches", "1")
    assert "trainer.overfit_batches: 1 with ckpt_path" in refusal(capsys, workspace, "fit", *args)


def test_adapters_beside_a_merged_folder_are_refused_and_weights_are_said_not_to_be_read(
    workspace: Workspace, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("validate", "--ckpt_path", str(next(half.glob("best_merged_*"))))
    error = refusal(capsys, workspace, *args, "--model.lora_config.rank=2", config=False)
    assert "model.lora_config.rank: --ckpt_path is a merged folder" in error
    workspace.run(*args, f"--model.network.encoder.pretrained={workspace.folder / 'base'}", config=False)
    assert "model.network.encoder.pretrained: not read, since the merged folder" in capsys.readouterr().out


def test_a_share_of_images_that_folders_state_is_said_to_have_no_effect(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.run("validate", "--data.val_fraction", "0.3", "--audit.allow_random_base", "true")
    out = capsys.readouterr().out
    assert out.count("is split by its folders, so there is no use for val_fraction 0.3") == 1
