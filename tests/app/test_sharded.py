"""`--trainer.strategy sharded` trains as DDP does, and its checkpoints are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eomt.app.sharded import blocks_of, refuse_shared
from eomt.errors import UserError
from tests.cli_runs import Workspace, make_workspace
from tests.documents import ROOT
from tests.ranks import run_on_ranks
from tests.tiny import make_eomt

CLIPPED = ("--trainer.gradient_clip_val", "0.5")
STOPS = ("--trainer.callbacks+", '{"class_path": "tests.cli_runs.PowerCut", "init_args": {"step": 3}}')


def fit_sharded(workspace: Workspace, *args: str) -> str:
    """Trains on two processes; returns what the program says."""
    command = [sys.executable, "main.py", "fit", "--config", str(workspace.config), "--run_name", "sharded"]
    command += ["--trainer.default_root_dir", str(workspace.runs), "--trainer.accelerator", "cpu"]
    command += ["--trainer.devices", "2", "--trainer.strategy", "sharded", *CLIPPED, *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.slow
def test_a_sharded_run_that_was_stopped_and_resumed_equals_ddp(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    run_on_ranks(workspace, "fit", "--run_name", "ddp", *CLIPPED)
    assert "power cut" in fit_sharded(workspace, *STOPS)
    run = workspace.runs / "sharded"
    assert only(run, "latest*.ckpt").name == "latest_lora_step2.ckpt"
    said = fit_sharded(workspace, "--ckpt_path", "latest")
    assert "callbacks.MergeOnSave is left out" in said, said
    theirs, ours = (
        torch.load(only(workspace.runs / name, "final*.ckpt"), weights_only=True) for name in ("ddp", "sharded")
    )
    # weights_only reads DTensors, too: they would need two processes again
    assert all(type(value) is torch.Tensor for value in ours["state_dict"].values())
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=1e-5)
    moments, expected = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    assert moments.keys() == expected.keys()
    for index, state in expected.items():
        torch.testing.assert_close(moments[index], state, rtol=0, atol=1e-5)
    adapters = [
        load_file(only(workspace.runs / name, "best*/adapter_model.safetensors")) for name in ("ddp", "sharded")
    ]
    torch.testing.assert_close(*adapters, rtol=0, atol=1e-5)
    # in this one process
    workspace.run("merge", "--run_name", "sharded", "--ckpt_path", "latest", "--output", str(tmp_path / "merged"))
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_blocks_are_the_layers_of_the_encoder() -> None:
    network = make_eomt(num_classes=3)
    found = blocks_of(network)
    assert all(block in found for block in network.encoder.blocks)
    # no block within a block: each weight is divided once
    inner = [id(module) for block in found for module in block.modules() if module is not block]
    assert not {id(block) for block in found} & set(inner)


def test_weights_of_two_blocks_are_refused() -> None:
    shared = nn.Linear(4, 4)
    tied = nn.ModuleList([nn.Sequential(shared, nn.ReLU()), nn.Sequential(nn.ReLU(), shared)])
    model = nn.ModuleDict({"blocks": tied})
    with pytest.raises(UserError, match=r"blocks\.0\.0\.weight"):
        refuse_shared(model, blocks_of(model))


def test_weights_of_a_block_and_the_rest_are_refused() -> None:
    blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model = nn.ModuleDict({"blocks": blocks, "head": blocks[0]})
    with pytest.raises(UserError, match=r"blocks\.0\.weight"):
        refuse_shared(model, list(blocks))
