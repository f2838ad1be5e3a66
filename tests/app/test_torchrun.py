"""Two launchers of torchrun over loopback, as on two machines."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli_runs import make_workspace
from tests.documents import ROOT
from tests.ranks import run_on_ranks


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    run_on_ranks(workspace, "fit", "--run_name", "one")
    port = str(free_port())
    nodes = []
    for rank in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        command += ["--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port, "main.py", "fit"]
        command += ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
        command += ["--run_name", "two", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
        command += ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        node = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        nodes.append(node)
    said = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    # the first speaks for both
    assert "Run folder" in said[0]
    assert "Run folder" not in said[1]
    assert sorted(path.name for path in workspace.runs.iterdir()) == ["one", "two"]
    ours, theirs = (
        torch.load(next((workspace.runs / name).glob("final*.ckpt")), weights_only=True) for name in ("two", "one")
    )
    assert ours["global_step"] == theirs["global_step"] > 0
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=0, atol=1e-6)
