"""16.9: however a run is stopped, it resumes to the bits of the run that was not."""

import csv
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from eomt.app import command_line
from eomt.app.run_lock import LOCK, RunLock
from tests.cli_runs import Workspace, make_workspace, refusal
from tests.forks import Program

# of five batches an epoch: steps of two have a short one at the end of each
STEPS = ("--trainer.max_epochs", "4", "--data.batch_size", "2", "--trainer.check_val_every_n_epoch", "null")
KINDS = {
    "plain": ("--trainer.val_check_interval", "3"),
    "accumulated": ("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "4"),
}


class Failure(Callback):
    """Raises an error at a moment: in the hook that is called for the n-th time."""

    def __init__(self, hook: str, count: int) -> None:
        self.count = count

        def fail(*_: Any, **__: Any) -> None:
            self.count -= 1
            if self.count == 0:
                raise OSError("the cable was pulled")

        setattr(self, hook, fail)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("stops"))
    # an odd number of batches
    for kind in ("images", "masks"):
        folder = made.folder / "data" / "train" / kind
        for name in ("08.png", "09.png"):
            (folder / name).write_bytes((folder / "00.png").read_bytes())
    return made


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> Callable[[str], tuple[Path, float]]:
    """Return the run of a kind that nothing stops, and the seconds that it took."""

    @cache
    def run_of(kind: str) -> tuple[Path, float]:
        begin = time.monotonic()
        assert start(workspace, f"whole_{kind}", kind).finish() == 0
        return workspace.runs / f"whole_{kind}", time.monotonic() - begin

    return run_of


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def final(run: Path) -> dict[str, Any]:
    (path,) = run.glob("final_lora_step*.ckpt")
    return torch.load(path, weights_only=True)


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, theirs, f"{where}.{index}")
    else:
        assert one == other or (one != one and other != other), f"{where}: {one} {other}"


def assert_same_run(whole: Path, resumed: Path) -> None:
    """Weights, optimizer, random states, callbacks' figures and rows of two runs are equal bit for bit."""
    one, other = final(whole), final(resumed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal(one[part], other[part], part)
    (mine,), (theirs,) = (
        [value for name, value in found["callbacks"].items() if name.startswith(("LoRACheckpoint", "EarlyStopping"))][
            :1
        ]
        for found in (one, other)
    )
    assert_equal(mine, theirs, "callbacks")
    assert rows(whole) == rows(resumed)
    assert not [path for path in resumed.iterdir() if path.name.startswith(".")]


def start(workspace: Workspace, name: str, kind: str, *args: str) -> Program:
    given = (name, *STEPS, *KINDS[kind], *args)
    return Program(lambda: workspace.fit(*given), workspace.folder / f"{name}.txt")


def stop_by_signal(workspace: Workspace, name: str, kind: str, way: str, seconds: float) -> None:
    """Start a run, and send it a signal after some seconds; Ctrl-C may come twice."""
    program = start(workspace, name, kind)
    signals = [getattr(signal, word) for word in way.split()]
    time.sleep(seconds)
    for number in signals:
        if not program.has_ended():
            program.send(number)
        time.sleep(0.01)
    status = program.finish()
    wanted = -9 if signals[0] == signal.SIGKILL else 128 + signals[0]
    assert status in (0, wanted), (status, program.output.read_text()[-2000:])


def go_on(workspace: Workspace, name: str, kind: str) -> None:
    """Resume a run, or begin it again with its name where nothing was saved yet."""
    # a kill may leave a hidden one that was not whole yet
    saved = list((workspace.runs / name).glob("[!.]*.ckpt"))
    program = start(workspace, name, kind, *(("--ckpt_path", "latest") if saved else ()))
    assert program.finish() == 0, program.output.read_text()[-3000:]


# Ctrl-C twice, and every other way, at moments of the whole length of a run
@pytest.mark.slow
@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "SIGINT", "SIGINT SIGINT", "SIGHUP"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_a_signal_stops_goes_on_to_the_same_bits(
    workspace: Workspace, whole: Callable[[str], tuple[Path, float]], kind: str, way: str, moment: int
) -> None:
    run, seconds = whole(kind)
    drawn = random.Random(f"{kind} {way} {moment}").uniform(moment, moment + 1) / 12
    name = f"{kind}_{way.replace(' ', '_')}_{moment}"
    stop_by_signal(workspace, name, kind, way, seconds * (0.1 + 0.9 * drawn))
    go_on(workspace, name, kind)
    assert_same_run(run, workspace.runs / name)


FAILURES = [
    ("plain", "on_train_batch_start", 5),
    ("plain", "on_before_backward", 14),
    ("plain", "on_before_optimizer_step", 11),
    ("plain", "on_train_batch_end", 2),
    ("plain", "on_train_batch_end", 8),
    ("plain", "on_validation_start", 4),
    ("plain", "on_validation_batch_end", 3),
    # the validation at the end of an epoch, before and after its figures were counted
    ("plain", "on_validation_end", 6),
    ("plain", "on_save_checkpoint", 8),
    ("plain", "on_train_epoch_end", 2),
    ("accumulated", "on_before_backward", 7),
    ("accumulated", "on_validation_end", 4),
    ("accumulated", "on_train_batch_start", 10),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "hook", "count"), FAILURES)
def test_a_run_that_an_error_stops_goes_on_to_the_same_bits(
    workspace: Workspace, whole: Callable[[str], tuple[Path, float]], kind: str, hook: str, count: int
) -> None:
    name = f"{kind}_{hook}_{count}"
    failure = {"class_path": "tests.app.test_stops.Failure", "init_args": {"hook": hook, "count": count}}
    assert start(workspace, name, kind, "--trainer.callbacks+", json.dumps(failure)).finish() in (1, 2)
    go_on(workspace, name, kind)
    assert_same_run(whole(kind)[0], workspace.runs / name)


def test_one_stop_of_each_kind(workspace: Workspace, whole: Callable[[str], tuple[Path, float]]) -> None:
    """A few of the cases of `make test-slow`."""
    for way, share in (("SIGINT", 0.6), ("SIGHUP", 0.7)):
        name = f"one_{way}"
        stop_by_signal(workspace, name, "plain", way, whole("plain")[1] * share)
        go_on(workspace, name, "plain")
        assert_same_run(whole("plain")[0], workspace.runs / name)


def test_a_run_that_is_stopped_before_it_saves_can_begin_again(workspace: Workspace) -> None:
    """16.8: its folder could be neither resumed nor used again."""
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        program = start(workspace, "early", "plain")
        while not (workspace.runs / "early" / LOCK).is_file():
            time.sleep(0.001)
        program.send(number)
        assert program.finish() == status
        assert (workspace.runs / "early").exists() == (number == signal.SIGKILL)
    assert start(workspace, "early", "plain").finish() == 0


def test_a_run_whose_latest_is_missing_or_torn_goes_on_from_its_best(
    workspace: Workspace, whole: Callable[[str], tuple[Path, float]], tmp_path: Path
) -> None:
    """16.6, 16.8: `latest` said that there is none, or took a torn file."""
    run = whole("plain")[0]
    copied = workspace.runs / "torn"
    shutil.copytree(run, copied)
    for path in [*copied.glob("latest*"), *copied.glob("final*")]:
        path.write_bytes(path.read_bytes()[:-100])
    go_on(workspace, "torn", "plain")
    one, other = final(run), final(copied)
    assert_equal(one["state_dict"], other["state_dict"], "state_dict")


def test_a_second_ctrl_c_leaves_no_folder_that_a_first_was_removing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.CLI, "instantiate_classes", interrupt)
    # the first thing that happens when an error has come
    monkeypatch.setattr(command_line, "peer_error", interrupt)
    with pytest.raises(SystemExit):
        workspace.fit("twice")
    assert not (workspace.runs / "twice").exists()


def test_two_trainings_never_write_into_one_folder(
    workspace: Workspace, whole: Callable[[str], tuple[Path, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(whole("plain")[0])
    try:
        args = ("fit", "--run_name", "whole_plain", "--ckpt_path", "latest")
        assert "another training is writing there" in refusal(capsys, workspace, *args)
    finally:
        lock.release()


@pytest.mark.parametrize("content", ["thesis.txt", "best_lora_step8_iou0.5/adapter_model.safetensors"])
def test_a_folder_that_holds_anything_else_is_never_begun_again(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """A lock alone made a folder one that a killed run had left."""
    taken = workspace.runs / "taken"
    (taken / content).parent.mkdir(parents=True)
    for name in (LOCK, content):
        (taken / name).write_text("mine")
    assert "exists; choose another name" in refusal(capsys, workspace, "fit", "--run_name", "taken")
    (workspace.runs / "link").symlink_to(taken)
    assert "exists; choose another name" in refusal(capsys, workspace, "fit", "--run_name", "link")
    assert (taken / content).read_text() == "mine"
    shutil.rmtree(taken)
    (workspace.runs / "link").unlink()
