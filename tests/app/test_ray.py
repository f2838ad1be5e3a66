"""`--launcher ray`: a training on a local Ray cluster, and the options of launchers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from eomt.app.launching import RayLaunch, launch_of
from eomt.app.ray_check import check_fit
from eomt.errors import UserError
from tests.cli_runs import Workspace, make_workspace, refusal
from tests.documents import ROOT
from tests.ranks import run_on_ranks


class KilledOnce(Callback):
    """Kills rank 1 before step 4, in the first of its processes that come so far."""

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 3 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Lingers(Callback):
    """Notes the number of its process at the second epoch, and takes its time then."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= 2:
            (self.folder / f"{trainer.global_rank}.pid").write_text(str(os.getpid()))
            time.sleep(3)


def command_of(workspace: Workspace, *args: str) -> list[str]:
    """`fit` on two processes of Ray."""
    command = [sys.executable, "main.py", "fit", "--launcher", "ray", "--num_workers", "2", "--run_name", "ray"]
    command += ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    return [*command, "--trainer.accelerator", "cpu", *args]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [False, True])
def test_ctrl_c_ends_all_processes_and_the_run_goes_on(tmp_path: Path, is_there: bool) -> None:
    """On a cluster of its own, and on one that is there before and after."""
    pytest.importorskip("ray")
    workspace = make_workspace(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with running_cluster(tmp_path) if is_there else contextlib.nullcontext("") as address:
        if address:
            environment |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        lingers = f'{{"class_path": "tests.app.test_ray.Lingers", "init_args": {{"folder": "{tmp_path}"}}}}'
        output = tmp_path / "output.txt"
        with output.open("w") as file:
            command = command_of(workspace, "--trainer.callbacks+", lingers, "--data.batch_size", "2")
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        pids = [tmp_path / f"{rank}.pid" for rank in range(2)]
        begun = wait_for(lambda: all(pid.exists() for pid in pids), 120)
        # as a terminal does, to all in the foreground
        os.killpg(process.pid, signal.SIGINT)
        status = process.wait(60)
        said = output.read_text()
        assert begun, said
        assert status == 130, said
        assert "Traceback" not in said, said
        assert "Stopped; --ckpt_path latest --run_name ray goes on" in said
        assert wait_for(lambda: not any(is_alive(int(pid.read_text())) for pid in pids), 30), said
        run = workspace.runs / "ray"
        assert any(run.glob("latest*.ckpt")), sorted(run.iterdir())
        if is_there:
            again = command_of(workspace, "--ckpt_path", "latest")
            done = subprocess.run(again, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stdout + done.stderr
            assert any(run.glob("final*step4.ckpt"))


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[str]:
    """A cluster of this machine that no command of ours has begun."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    ray = [str(Path(sys.executable).with_name("ray"))]
    start = [*ray, "start", "--head", f"--port={address.split(':')[1]}", "--node-ip-address=127.0.0.1", "--num-cpus=3"]
    start += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=80000000", "--block"]
    with (folder / "cluster.txt").open("w") as file:
        # a token would have to be on this machine before
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        head = subprocess.Popen(start, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        assert wait_for(lambda: "Ray runtime started" in (folder / "cluster.txt").read_text(), 60)
        yield address
    finally:
        head.terminate()
        # it gives what runs half a minute to end
        head.wait(60)


@pytest.mark.slow
def test_a_killed_worker_is_begun_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    workspace = make_workspace(tmp_path)
    run_on_ranks(workspace, "fit", "--run_name", "ddp")
    mark = tmp_path / "killed"
    killer = f'{{"class_path": "tests.app.test_ray.KilledOnce", "init_args": {{"mark": "{mark}"}}}}'
    command = command_of(workspace, "--trainer.callbacks+", killer)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert mark.exists()
    theirs, ours = (
        torch.load(next((workspace.runs / name).glob("final*.ckpt")), weights_only=True) for name in ("ddp", "ray")
    )
    assert ours["global_step"] == theirs["global_step"] == 4
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=1e-5)
    # the second beginning went on behind the first epoch, it did not begin at step 0 again
    log = (workspace.runs / "ray" / "training.log").read_text()
    assert log.count("Baseline (step 0)") == 1, log


def test_options_of_the_launcher_are_taken_out() -> None:
    assert launch_of(["fit", "--launcher", "ray", "--seed_everything", "3", "--num_workers=4"]) == (
        RayLaunch(4),
        ["fit", "--seed_everything", "3"],
    )
    assert launch_of(["fit", "--launcher", "local"]) == (None, ["fit"])
    # a sweep reads its own
    assert launch_of(["sweep", "--launcher", "ray"]) == (None, ["sweep", "--launcher", "ray"])
    assert launch_of(["fit", "--data.num_workers", "2"]) == (None, ["fit", "--data.num_workers", "2"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fit", "--launcher", "slurm"], "launcher: 'slurm'; must be local or ray"),
        (["fit", "--num_workers", "2"], "give --trainer.devices"),
        (["fit", "--launcher", "ray", "--num_workers", "0"], "at least 1"),
        (["fit", "--launcher", "ray", "--num_workers", "two"], "at least 1"),
        (["sweep", "--launcher", "ray", "--num_workers", "2"], "give --workers"),
        (["test", "--launcher", "ray"], "test has no launcher"),
    ],
)
def test_wrong_options_of_the_launcher_are_refused(args: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        launch_of(args)


class ClusterBegins(Exception):  # noqa: N818, since it is no error
    """A cluster would begin now."""


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """What a command raises that comes as far as a cluster, which none of these tests needs."""
    pytest.importorskip("ray")

    def begin(workers: int) -> Any:
        raise ClusterBegins

    monkeypatch.setattr("eomt.app.ray_launch.cluster", begin)
    return ClusterBegins


def test_a_mistake_is_told_before_a_cluster_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], begins: type[Exception]
) -> None:
    """It took 67 s, behind the messages of Ray's processes."""
    workspace = make_workspace(tmp_path)
    ray = ("fit", "--launcher", "ray", "--num_workers", "2")
    for option, value, words in (
        ("--model.lr", "-1", "lr: -1"),
        ("--model.lora_config.target_modules", "[atention]", "attention"),
        ("--trainer.devices", "2", "trainer.devices: 2, but Ray starts the processes; leave it out"),
        ("--trainer.max_stepps", "3", "did you mean trainer.max_steps?"),
        ("--model.network.pretrained", str(tmp_path / "nowhere"), "nowhere"),
        ("--ckpt_path", "latest", "no run"),
    ):
        assert words in refusal(capsys, workspace, *ray, option, value)
    assert not list(workspace.runs.glob("*"))
    # what is sound comes to the cluster, and has taken no folder yet
    with pytest.raises(begins):
        workspace.run(*ray, "--run_name", "sound")
    assert not list(workspace.runs.glob("*"))
    # a process that is begun anew must find the run, also where the file says where runs lie
    text = workspace.config.read_text().replace("trainer:", f"trainer:\n  default_root_dir: {tmp_path / 'elsewhere'}")
    workspace.config.write_text(text)
    assert check_fit(["fit", "--config", str(workspace.config), "--run_name", "x"]) == tmp_path / "elsewhere" / "x"
    (workspace.runs / "sound").mkdir(parents=True)
    assert "exists" in refusal(capsys, workspace, *ray, "--run_name", "sound")


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from eomt.utils.ray_cluster import ray_module

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray is not installed; run pip install"):
        ray_module()
