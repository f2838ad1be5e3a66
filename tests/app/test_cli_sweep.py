"""`sweep` from the command line: real trainings in processes of their own, killed and gone on with."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli_runs import Workspace, make_workspace, refusal, write_images

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("--ways", "attention_mlp", "--rates", "1e-3,1e-2", "--folds", "2", "--workers", "2")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    found = make_workspace(tmp_path_factory.mktemp("sweep"))
    config = yaml.safe_load(found.config.read_text())
    # three validations, so that there is something to give up
    config["trainer"]["max_epochs"] = 3
    config["trainer"]["callbacks"].append("callbacks.SegmentationResults")
    found.config.write_text(yaml.safe_dump(config))
    return found


def start(workspace: Workspace, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "main.py", "sweep", "--config", str(workspace.config), *args]
    command += ["--trainer.default_root_dir", str(workspace.runs)]
    # the last is how `tasks_of_ray` knows them
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SWEPT": str(workspace.folder)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def table(folder: Path) -> list[list[str]]:
    """The table without seconds and memory, which differ each time."""
    with (folder / "sweep.csv").open(newline="") as file:
        return [row[:7] + row[9:] for row in csv.reader(file)]


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_to_the_same_table(workspace: Workspace) -> None:
    whole = start(workspace, *OPTIONS, "--run_name", "whole")
    output, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, output
    folder = workspace.runs / "whole"
    summary = json.loads((folder / "sweep.json").read_text())
    assert summary["test"]["test_iou"] > 0
    assert summary["metric"] == "val_iou"
    # what is measured is what was trained: the search's score is that of the run's own summary
    run = json.loads((folder / "trials" / summary["winner"] / "training_summary.json").read_text())
    assert summary["rows"][0]["searched"]["score"] == run["best"]
    assert summary["baseline"] == run["baseline"]
    assert "In the test it" in summary["rivals"]
    assert "the most frequent class of each color" in summary["rivals"]
    assert f"The winner beside what is answered without training: {summary['rivals']}" in output
    assert (folder / "winner" / "model.safetensors").is_file()
    assert (folder / "sweep.png").is_file()
    killed = start(workspace, *OPTIONS, "--run_name", "killed")
    deadline = time.monotonic() + 300
    while not list((workspace.runs / "killed" / "reports").glob("*.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    # its trainings end with it
    resumed = start(workspace, *OPTIONS, "--run_name", "killed")
    output, _ = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, output
    assert "goes on" in output
    assert table(workspace.runs / "killed") == table(folder)
    # a run of the best configuration in one go is what the sweep trained with two pauses
    workspace.run("fit", "--config", str(folder / "best.yaml"), "--run_name", "best", config=False)
    best = json.loads((workspace.runs / "best" / "training_summary.json").read_text())
    assert best["best"] == run["best"]
    assert best["best_step"] == run["best_step"]
    assert best["merged_bytes"]


@pytest.mark.slow
def test_ctrl_c_says_how_the_sweep_goes_on(workspace: Workspace) -> None:
    sweep = start(workspace, *OPTIONS, "--run_name", "stopped")
    assert sweep.stdout is not None
    for line in sweep.stdout:
        if "Sweep:" in line:
            break
    time.sleep(3)
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, output
    assert "goes on with --run_name stopped" in output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--budget", "soon"), "budget: 'soon'; must be a time, such as 30m, or a number of trials, such as 20"),
        (("--folds", "1"), "folds: 1; must be at least 2"),
        (("--workers", "0"), "workers: 0; must be at least 1"),
        (("--rates", "1e-3,fast"), "rates: 'fast'; must be numbers above 0"),
        (("--ways", "atention"), "ways: 'atention' is no way of training this network; did you mean attention?"),
        (("--grid", "model.lora_config.rnak=4,8"), "did you mean model.lora_config.rank"),
        (("--grid", "model.lora_config.rank"), "must be FIELD=VALUE,VALUE"),
        (("--grid", "model.lora_config.rank=[4"), "are no values"),
        (("--grid", "model.lora_config.rank=4,many"), "grid: model.lora_config.rank: many; must be a whole number"),
        (("--grid", "model.lr=1e-3,1e-4"), "grid: model.lr is set by the sweep for each training; give --rates"),
        (("--grid", "data=null"), "grid: data is set by the sweep"),
        (("--data", "null"), "data: null, but sweep needs data"),
        (("--trainer.fast_dev_run", "true"), "such trials tell nothing of a way"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    before = set(workspace.runs.iterdir()) if workspace.runs.is_dir() else set()
    found = refusal(capsys, workspace, "sweep", *args)
    assert message in found
    assert len(found) < 330
    assert (set(workspace.runs.iterdir()) if workspace.runs.is_dir() else set()) == before


def test_a_checkpoint_is_no_start_of_a_sweep(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.folder / "x.ckpt").write_bytes(b"")
    found = refusal(capsys, workspace, "sweep", "--ckpt_path", str(workspace.folder / "base"))
    assert "a sweep trains from the base" in found


@pytest.mark.slow
def test_folds_of_a_seeded_split_hold_each_image_once_and_leave_the_test_alone(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    write_images(tmp_path / "one", 12, 0)
    sweep = start(
        workspace, "--data.path", str(tmp_path / "one"), "--ways", "attention_mlp", "--rates", "1e-2", "--folds", "2",
        "--run_name", "folds",
    )  # fmt: skip
    output, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, output
    folder = workspace.runs / "folds"
    record = json.loads((folder / "trials" / "attention_mlp_lr1e-2" / "splits.json").read_text())
    folds = [json.loads((folder / "folds" / f"fold{number}.json").read_text()) for number in (1, 2)]
    assert all(sorted(fold["test"]) == sorted(record["test"]) for fold in folds)
    validated = [name for fold in folds for name in fold["val"]]
    assert sorted(validated) == sorted([*record["train"], *record["val"]])
    used = [
        json.loads((folder / "trials" / f"attention_mlp_lr1e-2_fold{number}" / "splits.json").read_text())
        for number in (1, 2)
    ]
    assert used == folds


@pytest.mark.slow
def test_a_sweep_on_ray_has_a_table(workspace: Workspace) -> None:
    pytest.importorskip("ray")
    process = start(workspace, "--launcher", "ray", "--budget", "2", *OPTIONS, "--run_name", "ray")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    folder = workspace.runs / "ray"
    assert len(table(folder)) > 1
    assert not (folder / "stop").exists()


def tasks_of_ray(workspace: Workspace) -> dict[str, int]:
    """Trainings on the cluster of a sweep of this workspace, by name; other tests have clusters of their own."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
            if (
                # Ray's own processes have such titles, too
                title.startswith("ray::attention_mlp")
                and f"SWEPT={workspace.folder}".encode() in (folder / "environ").read_bytes()
            ):
                found[title] = int(folder.name)
    return found


@pytest.mark.slow
def test_a_sweep_on_ray_outlives_a_killed_training_and_goes_on_behind_ctrl_c(workspace: Workspace) -> None:
    pytest.importorskip("ray")
    options = ("--launcher", "ray", "--budget", "2", *OPTIONS, "--run_name", "ray_killed")
    sweep = start(workspace, *options)

    def wait_for(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < deadline
            assert sweep.poll() is None, sweep.communicate()[0]
            time.sleep(0.1)

    wait_for(lambda: bool(tasks_of_ray(workspace)))
    name, pid = next(iter(tasks_of_ray(workspace).items()))
    os.kill(pid, signal.SIGKILL)
    # Ray begins it anew
    wait_for(lambda: tasks_of_ray(workspace).get(name, pid) != pid)
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, output
    assert "goes on with --run_name ray_killed" in output
    assert not tasks_of_ray(workspace)
    again = start(workspace, *options)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    rows = table(workspace.runs / "ray_killed")
    assert len(rows) > 1
    assert json.loads((workspace.runs / "ray_killed" / "sweep.json").read_text())["rows"][0]["searched"]["score"] > 0
