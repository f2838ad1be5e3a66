"""16.5: an error of one process ends all of them, says whose it is, and gives the right exit status."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.multiprocessing import ProcessRaisedException

from eomt.app.ranks import peer_error
from eomt.errors import UserError
from tests.cli_runs import Workspace, make_workspace, refusal
from tests.documents import ROOT
from tests.forks import Program
from tests.ranks import TWO_RANKS, one_thread, run_on_ranks


class FailsOnRank(Callback):
    """Raises an error on one rank: a user's mistake or a fault of the program."""

    def __init__(self, rank: int, hook: str, is_mistake: bool) -> None:
        self.rank, self.is_mistake = rank, is_mistake
        setattr(self, hook, self.fail)

    def fail(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_rank != self.rank or trainer.sanity_checking:
            return
        if self.is_mistake:
            raise UserError("data: x.png cannot be read; remove it")
        raise RuntimeError("a fault")


class Waits(FailsOnRank):
    """Rank 0 waits where no error reaches it, as in NCCL; rank 1 fails."""

    def fail(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_rank == 0 and not trainer.sanity_checking:
            time.sleep(100)
        super().fail(trainer, pl_module)


class BreaksDataOfRank(Callback):
    """Makes the images of rank 1 unreadable, behind the look at all files: those of training, or of evaluation."""

    def __init__(self, split: str) -> None:
        self.split = split

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.global_rank != 1:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        make = data.masked_dataset

        def fail(*_: Any) -> Any:
            raise UserError("data: x.png cannot be read; remove it")

        def broken(split: str) -> Any:
            dataset = make(split)
            if split == self.split:
                dataset.read = fail
            return dataset

        data.masked_dataset = broken


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("ranks"))


def failing(kind: str, **arguments: Any) -> tuple[str, str]:
    component = {"class_path": f"tests.app.test_ranks.{kind}", "init_args": arguments}
    return "--trainer.callbacks+", json.dumps(component)


@pytest.mark.parametrize(
    ("rank", "hook"),
    [
        (1, "on_train_batch_start"),
        (1, "on_validation_batch_start"),
        (0, "on_train_batch_start"),
        (1, "on_fit_start"),
    ],
)
def test_a_mistake_on_one_forked_rank_ends_all(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], rank: int, hook: str
) -> None:
    extra = failing("FailsOnRank", rank=rank, hook=hook, is_mistake=True)
    name = ("--run_name", f"forked_{rank}_{hook}", "--data.batch_size", "1")
    with one_thread():
        error = refusal(capsys, workspace, "fit", *name, *TWO_RANKS, *extra)
    assert error == f"error: data: x.png cannot be read; remove it (rank {rank})"


def test_a_fault_on_one_forked_rank_keeps_its_traceback(workspace: Workspace) -> None:
    extra = failing("FailsOnRank", rank=1, hook="on_train_batch_start", is_mistake=False)
    with pytest.raises(ProcessRaisedException, match="RuntimeError: a fault"):
        run_on_ranks(workspace, "fit", "--run_name", "fault", "--data.batch_size", "1", *extra)


def started(workspace: Workspace, command: str, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """What two processes say and how they end that are started as with `--trainer.strategy ddp`."""
    places = ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    return subprocess.run(
        [sys.executable, "main.py", command, *places, "--run_name", name, *two, "--data.batch_size", "1", *args],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "is_mistake", "status"), [("FailsOnRank", True, 2), ("FailsOnRank", False, 1), ("Waits", True, 2)]
)
def test_started_ranks_end_together(workspace: Workspace, kind: str, is_mistake: bool, status: int) -> None:
    extra = failing(kind, rank=1, hook="on_train_batch_start", is_mistake=is_mistake)
    result = started(workspace, "fit", f"{kind}_{is_mistake}", *extra)
    assert result.returncode == status, result.stderr
    said = result.stdout + result.stderr
    assert "rank 1: ended" in said
    if is_mistake:
        assert said.count("error (rank 1): data: x.png cannot be read; remove it") == 1
        assert "Traceback" not in said


@pytest.mark.slow
def test_a_mistake_of_the_first_started_rank_is_said_once(workspace: Workspace) -> None:
    extra = failing("FailsOnRank", rank=0, hook="on_train_batch_start", is_mistake=True)
    result = started(workspace, "fit", "first", *extra)
    said = result.stdout + result.stderr
    assert result.returncode == 2, said
    assert said.count("x.png cannot be read") == 1
    assert "\nerror: data: x.png cannot be read; remove it\n" in f"\n{said}"
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "split", "workers"), [("fit", "train", 1), ("fit", "val", 0), ("validate", "val", 1)]
)
def test_what_one_rank_cannot_read_is_said_once(workspace: Workspace, command: str, split: str, workers: int) -> None:
    """Also by the process that reads for it, and within a validation."""
    weights = () if command == "fit" else ("--audit.allow_random_base", "true")
    data = ("--data.num_workers", str(workers), "--data.eval_batch_size", "1")
    extra = failing("BreaksDataOfRank", split=split)
    result = started(workspace, command, f"unreadable_{command}_{split}", *data, *weights, *extra)
    said = result.stdout + result.stderr
    assert result.returncode == 2, said
    assert said.count("x.png cannot be read") == 1
    assert "\nerror (rank 1): data: x.png cannot be read; remove it\n" in f"\n{said}"
    assert "rank 1: ended" in said
    assert "Traceback" not in said


def test_spawned_ranks_are_refused_before_the_first_step(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """16.11: they trained to the end and failed then."""
    spawned = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp_spawn")
    assert "trainer.strategy: spawned" in refusal(capsys, workspace, "fit", "--run_name", "spawned", *spawned)
    assert not (workspace.runs / "spawned").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wait_for_other_machines_can_be_ended(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_PORT", str(port))
    nodes = ("--trainer.num_nodes", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "1")
    program = Program(lambda: workspace.fit(f"nodes_{number.name}", *nodes), tmp_path / "output")
    with socket.socket() as peer:
        # it listens once it waits
        while peer.connect_ex(("127.0.0.1", port)):
            assert not program.has_ended(), program.output.read_text()
            time.sleep(0.05)
    program.send(number)
    assert program.finish(20) == -number


def test_processes_of_torchrun_that_would_train_alone_are_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """16.11: two of them wrote one folder."""
    for name, value in (("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "x")):
        monkeypatch.setenv(name, value)
    error = refusal(capsys, workspace, "fit", "--run_name", "alone", "--trainer.strategy", "auto")
    assert "trainer.devices: torchrun started 2 processes" in error


def test_a_lone_process_loses_no_other() -> None:
    """A pipe of its data loader was taken for another process."""
    assert peer_error(RuntimeError("Broken pipe"), None) is None
    assert peer_error(RuntimeError("Broken pipe"), Trainer(logger=False, accelerator="cpu", devices=1)) is None
