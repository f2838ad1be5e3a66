"""`--launcher ray`: a training on a local Ray cluster, and the options of launchers."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from eomt.app.launching import RayLaunch, launch_of
from eomt.errors import UserError
from tests.cli_runs import make_workspace
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


@pytest.mark.slow
def test_a_killed_worker_is_begun_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    workspace = make_workspace(tmp_path)
    run_on_ranks(workspace, "fit", "--run_name", "ddp")
    mark = tmp_path / "killed"
    killer = f'{{"class_path": "tests.app.test_ray.KilledOnce", "init_args": {{"mark": "{mark}"}}}}'
    command = [sys.executable, "main.py", "fit", "--launcher", "ray", "--num_workers", "2", "--run_name", "ray"]
    command += ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    command += ["--trainer.accelerator", "cpu", "--trainer.callbacks+", killer]
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


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from eomt.utils.ray_cluster import ray_module

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray is not installed; run pip install"):
        ray_module()
