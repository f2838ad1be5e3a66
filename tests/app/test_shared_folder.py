"""Which processes write into the folder of the process that started them: further ranks of its run alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eomt.app.shared_folder import VARIABLE, share_folder
from tests.cli_runs import make_workspace
from tests.documents import ROOT

CODE = "from eomt.app.shared_folder import shared_folder; print(shared_folder())"


@pytest.mark.parametrize(
    ("code", "rank", "found"),
    [
        (CODE, "1", "runs/a b"),
        # a command that the first process starts, and one that a data loader starts
        (CODE, "0", "None"),
        (f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CODE!r}], check=True)", "1", "None"),
    ],
    ids=["rank", "command", "command of a child"],
)
def test_only_a_rank_of_the_run_finds_its_folder(
    monkeypatch: pytest.MonkeyPatch, code: str, rank: str, found: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    share_folder(Path("runs/a b"))
    environment = os.environ | {"LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)}
    monkeypatch.delenv(VARIABLE)
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == found


def test_a_run_is_where_its_name_says_whatever_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for value in (str(other), f"{os.getppid()} {other}"):
        monkeypatch.setenv(VARIABLE, value)
        run = workspace.fit(f"own{len(value)}", "--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0")
        assert list(run.glob("final_lora_*.ckpt"))
    assert not list(other.iterdir())
