"""What users are promised beyond one process and one logger; each as a program of its own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli_runs import Workspace, make_workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("promises"))


def start(workspace: Workspace, command: str, *args: str) -> subprocess.Popen[str]:
    """`python main.py COMMAND` on the tiny config."""
    places = ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    return subprocess.Popen(
        [sys.executable, "main.py", command, *places, *args],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "WANDB_MODE": "offline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == status, output
    return output


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_measure_what_one_does_and_share_a_folder(workspace: Workspace) -> None:
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    finish(start(workspace, "fit", "--run_name", "two", "--data.batch_size", "1", *two))
    run = workspace.runs / "two"
    assert [path.name for path in workspace.runs.iterdir()] == ["two"]
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["best"] > summary["baseline"]
    figures = {}
    for name, devices in (("1", ()), ("2", two)):
        output = finish(start(workspace, "validate", "--ckpt_path", "best", "--run_name", "two", *devices))
        figures[name] = dict(re.findall(r"│\s+(val_\S+)\s+│\s+([\d.]+)", output))
    assert set(figures["1"]) >= {"val_iou", "val_dice", "val_loss"}
    for name, value in figures["1"].items():
        assert float(figures["2"][name]) == pytest.approx(float(value), rel=1e-5), name
    assert float(figures["1"]["val_iou"]) == pytest.approx(summary["best"], rel=1e-5)


def test_sigterm_saves_and_exits_non_zero(workspace: Workspace) -> None:
    process = start(workspace, "fit", "--run_name", "ended", "--trainer.max_epochs", "1000", "--model.lr", "1e-8")
    run = workspace.runs / "ended"
    deadline = time.monotonic() + 120
    while not list(run.glob("latest_lora_step*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    finish(process, status=128 + signal.SIGTERM)
    (latest,) = run.glob("latest_lora_step*.ckpt")
    step = torch.load(latest, weights_only=True)["global_step"]
    assert json.loads((run / "training_summary.json").read_text())["steps"] == step
    assert step >= 4


def test_a_full_disk_is_one_line_and_status_2(workspace: Workspace) -> None:
    places = ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from eomt.cli import main; main(sys.argv[1:])"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited, "fit", *places, "--run_name", "full"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "written" in result.stderr.splitlines()[-1]
    assert not (workspace.runs / "full").exists()


def test_wandb_offline_gets_figures_and_pictures(workspace: Workspace) -> None:
    pytest.importorskip("wandb")
    folder = workspace.folder / "wandb_run"
    logger = json.dumps({"class_path": "WandbLogger", "init_args": {"offline": True, "save_dir": str(folder)}})
    finish(start(workspace, "fit", "--run_name", "wandb", "--trainer.logger", logger))
    assert list(folder.rglob("*.wandb"))
    assert list(folder.rglob("media/images/*.png"))
    assert [int(row["step"]) for row in rows(workspace.runs / "wandb")] == [0, 2, 4, 6, 8]


def test_tensorboard_gets_figures_and_pictures(workspace: Workspace) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = workspace.folder / "tensorboard_run"
    logger = json.dumps({"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder)}})
    finish(start(workspace, "fit", "--run_name", "tensorboard", "--trainer.logger", logger))
    (events,) = folder.rglob("events.out.tfevents.*")
    log = accumulator.EventAccumulator(str(events.parent)).Reload()
    assert {"val_iou", "train_loss", "lr"} <= set(log.Tags()["scalars"])
    assert [scalar.step for scalar in log.Scalars("val_iou")] == [0, 4, 8]
    assert [scalar.step for scalar in log.Scalars("train_loss")] == [2, 4, 6, 8]
    assert "val_pictures" in log.Tags()["images"]
