"""What users are promised beyond one process and one logger; most as programs of their own."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli_runs import Workspace, make_workspace
from tests.forks import Program

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


def test_two_processes_measure_what_one_does_and_share_a_folder(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    finish(start(workspace, "fit", "--run_name", "two", "--data.batch_size", "1", *two))
    run = workspace.runs / "two"
    assert [path.name for path in workspace.runs.iterdir()] == ["two"]
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["best"] > summary["baseline"]
    figures = {}
    best = ("--ckpt_path", "best", "--run_name", "two")
    capsys.readouterr()
    workspace.run("validate", *best)
    for name, output in (("1", capsys.readouterr().out), ("2", finish(start(workspace, "validate", *best, *two)))):
        figures[name] = dict(re.findall(r"│\s+(val_\S+)\s+│\s+([\d.]+)", output))
    assert set(figures["1"]) >= {"val_iou", "val_dice", "val_loss"}
    for name, value in figures["1"].items():
        assert float(figures["2"][name]) == pytest.approx(float(value), rel=1e-5), name
    assert float(figures["1"]["val_iou"]) == pytest.approx(summary["best"], rel=1e-5)


def test_sigterm_saves_and_exits_non_zero(workspace: Workspace) -> None:
    run = workspace.runs / "ended"
    long = ("--trainer.max_epochs", "1000", "--model.lr", "1e-8")
    program = Program(lambda: workspace.fit("ended", *long), workspace.folder / "ended.txt")
    deadline = time.monotonic() + 120
    while not list(run.glob("latest_lora_step*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    program.send(signal.SIGTERM)
    assert program.finish() == 128 + signal.SIGTERM
    (latest,) = run.glob("latest_lora_step*.ckpt")
    step = torch.load(latest, weights_only=True)["global_step"]
    assert json.loads((run / "training_summary.json").read_text())["steps"] == step
    assert step >= 4


def test_a_full_disk_is_one_line_and_status_2(workspace: Workspace) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        workspace.fit("full")

    program = Program(work, workspace.folder / "full.txt")
    assert program.finish() == 2
    last = program.output.read_text().splitlines()[-1]
    assert last.startswith("error: ")
    assert "written" in last
    assert not (workspace.runs / "full").exists()


def test_wandb_offline_gets_figures_and_pictures(workspace: Workspace) -> None:
    wandb = pytest.importorskip("wandb")
    folder = workspace.folder / "wandb_run"
    logger = json.dumps({"class_path": "WandbLogger", "init_args": {"offline": True, "save_dir": str(folder)}})
    workspace.fit("wandb", "--trainer.logger", logger)
    wandb.finish()
    assert list(folder.rglob("*.wandb"))
    assert list(folder.rglob("media/images/*.png"))
    assert [int(row["step"]) for row in rows(workspace.runs / "wandb")] == [0, 2, 4, 6, 8]


def test_tensorboard_gets_figures_and_pictures(workspace: Workspace) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = workspace.folder / "tensorboard_run"
    logger = json.dumps({"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder)}})
    workspace.fit("tensorboard", "--trainer.logger", logger)
    (events,) = folder.rglob("events.out.tfevents.*")
    log = accumulator.EventAccumulator(str(events.parent)).Reload()
    assert {"val_iou", "train_loss", "lr"} <= set(log.Tags()["scalars"])
    assert [scalar.step for scalar in log.Scalars("val_iou")] == [0, 4, 8]
    assert [scalar.step for scalar in log.Scalars("train_loss")] == [2, 4, 6, 8]
    assert "val_pictures" in log.Tags()["images"]
