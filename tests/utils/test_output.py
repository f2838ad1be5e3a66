"""A reader that goes away, or a disk that is full, where a command writes its lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_runs import Workspace, make_workspace
from tests.documents import ROOT

# Linux has it
FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("output"))


def start(workspace: Workspace, command: str, *args: str, stdout: int, stderr: int) -> subprocess.Popen[str]:
    places = ["--config", str(workspace.config), "--trainer.default_root_dir", str(workspace.runs)]
    return subprocess.Popen(
        [sys.executable, "main.py", command, *places, *args],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


def test_a_reader_that_goes_away_does_not_end_a_training(workspace: Workspace) -> None:
    program = start(workspace, "fit", "--run_name", "read", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert program.stdout is not None
    program.stdout.readline()
    # as `head -1` does
    program.stdout.close()
    assert program.wait(120) == 0
    assert (workspace.runs / "read" / "final_lora_step8.ckpt").is_file()
    assert "Run folder" in (workspace.runs / "read" / "training.log").read_text().splitlines()[-1]


def test_a_command_ends_quietly_without_a_reader(workspace: Workspace) -> None:
    program = start(workspace, "inspect", "--data", "null", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    said = program.stderr.read()
    program.stderr.close()
    assert program.wait(120) == 0
    assert [line for line in said.splitlines() if "Seed set" not in line] == []


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_for_the_output_is_named(workspace: Workspace) -> None:
    with FULL.open("w") as full:
        program = start(workspace, "inspect", "--data", "null", stdout=full.fileno(), stderr=subprocess.PIPE)
        assert program.stderr is not None
        said = program.stderr.read()
        program.stderr.close()
        assert program.wait(120) == 2
    assert said.splitlines()[-1] == "error: stdout: cannot be written (No space left on device); send it elsewhere"
