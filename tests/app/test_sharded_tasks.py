"""Each task in parts on two processes (FSDP2): the weights of DDP, in files that one process opens."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eomt.app.sharded import ShardedStrategy
from eomt.cli import main
from eomt.errors import UserError
from eomt.tasks import MaskedAutoencoding, PromptedSegmentation
from tests.documents import ROOT
from tests.ranks import TWO_RANKS, one_thread
from tests.test_quickstart_ranks import BATCH, SMALL

pytestmark = pytest.mark.slow

# the quickstart's encoder is made by another one
RANDOM = ("--model.network.encoder.pretrained", "false", "--audit.allow_random_base", "true")
STEPS = ("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--trainer.accelerator", "cpu")


def arguments(kind: str, folder: Path, name: str) -> list[str]:
    places = ["--data.path", str(folder / kind), "--trainer.default_root_dir", str(folder / "runs")]
    base = RANDOM if kind == "morph" else ()
    return ["--config", f"configs/quickstart/{kind}.yaml", *places, "--run_name", name, *SMALL[kind], *BATCH, *base]


def column(file: Path, name: str) -> list[str]:
    with file.open(newline="") as rows:
        return [row[name] for row in csv.DictReader(rows) if row[name]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.mark.parametrize("kind", ["classification", "morph", "vqa"])
def test_a_sharded_run_of_each_task_equals_ddp(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with one_thread():
        main(["fit", *arguments(kind, folder, kind), *STEPS, *TWO_RANKS])
    name = f"{kind}_sharded"
    two = ["--trainer.devices", "2", "--trainer.strategy", "sharded"]
    done = subprocess.run(
        [sys.executable, "main.py", "fit", *arguments(kind, folder, name), *STEPS, *two],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "sharded" in said
    theirs, ours = (
        torch.load(next((folder / "runs" / run).glob("final*.ckpt")), weights_only=True) for run in (kind, name)
    )
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    # of 0.009 that three steps can move one; Adam divides gradients by their size, also where that is rounding
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=1e-3)
    losses = [float(column(folder / "runs" / run / "metrics.csv", "val_loss")[-1]) for run in (kind, name)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    # in this one process
    main(["validate", *arguments(kind, folder, name), "--ckpt_path", "latest"])


@pytest.mark.parametrize("task", [PromptedSegmentation, MaskedAutoencoding])
def test_tasks_that_cannot_be_divided_are_refused_in_one_line(task: Any) -> None:
    strategy = ShardedStrategy()
    strategy._lightning_module = task.__new__(task)
    with pytest.raises(UserError, match=f"sharded, but {task.__name__} is not trained in parts; give ddp"):
        strategy.model_to_device()
