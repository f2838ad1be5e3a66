"""What version 0.1.0 left on disk opens, and answers as it did then."""

import json
import re
from pathlib import Path

import pytest
import torch

from eomt.lora.config import LoRAConfig
from tests import old_runs

# of each run: the figure in the name of its best checkpoint
METRIC = {"eomt": "test_iou", "sam2": "test_iou", "morph": "test_eer", "vqa": "test_accuracy"}


def measured(run: Path) -> dict[str, float]:
    newest = max(run.glob("results/*_eval.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())["metrics"]


@pytest.mark.parametrize("task", METRIC)
def test_every_file_of_an_old_run_gives_its_figures(task: str, tmp_path: Path) -> None:
    workspace = old_runs.make(task, tmp_path)
    run = old_runs.place(task, workspace)
    expected = json.loads((run / "expected.json").read_text())
    forms = sorted(run.glob("best_*"))
    assert len(forms) == (3 if task == "eomt" else 2)
    for form in forms:
        workspace.run("test", "--ckpt_path", str(form), config=False)
        found = measured(run)
        assert METRIC[task] in found
        for name in found.keys() & expected.keys():
            if "question_only" in name:
                # no answer of the run, but of a classifier that is fitted anew, by another library since
                continue
            if expected.get(re.sub("_(low|high)(?=/|$)", "", name)) in (0, 1) and re.search("_(low|high)(/|$)", name):
                # intervals of what is 0 or 1 have exact limits since
                continue
            assert found[name] == pytest.approx(expected[name], abs=2e-3, nan_ok=True), (form.name, name)


def test_an_old_run_is_resumed(tmp_path: Path) -> None:
    workspace = old_runs.make("eomt", tmp_path)
    run = old_runs.place("eomt", workspace)
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    workspace.run("fit", "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2", config=False)
    assert (run / "final_lora_step8.ckpt").is_file()


def test_a_config_in_an_old_checkpoint_opens_with_weights_only() -> None:
    stored = torch.load(old_runs.FOLDER / "hyper_parameters.pt", weights_only=True)
    config = stored["hyper_parameters"]["lora_config"]
    assert config == LoRAConfig(rank=3, target_modules=["attention"])
