"""A whole run with PEFT's layers: fit, resume, and every file it leaves measures alike."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli_runs import Workspace, make_workspace

pytest.importorskip("peft")

PEFT = ["--model.lora_config.backend", "peft"]
WAYS = {
    "peft": PEFT,
    "dora": [*PEFT, "--model.lora_config.use_dora", "true"],
    "pissa": [*PEFT, "--model.lora_config.init_lora_weights", "pissa"],
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("peft"))


def figure(run: Path) -> float:
    (result,) = sorted(run.glob("results/*_eval.json"))[-1:]
    metrics = json.loads(result.read_text())["metrics"]
    return metrics["test_iou"]


@pytest.mark.parametrize("way", WAYS)
def test_checkpoint_adapter_and_merged_folder_give_one_figure(workspace: Workspace, way: str) -> None:
    run = workspace.fit(way, *WAYS[way], "--model.lora_config.lora_dropout", "0.1")
    summary = json.loads((run / "training_summary.json").read_text())
    assert "adapters act and learn" in summary["audit"]
    assert summary["merge_relative_diff"] < 1e-4
    (checkpoint,) = run.glob("best_lora_*.ckpt")
    (merged,) = run.glob("best_merged_*")
    figures = []
    for path in (checkpoint, checkpoint.with_suffix(""), merged):
        for old in run.glob("results/*_eval.json"):
            old.unlink()
        workspace.run("test", "--ckpt_path", str(path), config=False)
        figures.append(figure(run))
    assert figures[1] == pytest.approx(figures[0], abs=1e-4)
    assert figures[2] == pytest.approx(figures[0], abs=1e-4)
    log = (run / "training.log").read_text()
    assert "[LoRA] Using PEFT library for proper LoRA injection..." in log


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_run_goes_on_as_the_whole_one(workspace: Workspace, way: str) -> None:
    whole = workspace.fit(f"{way}_whole", *WAYS[way])
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit(f"{way}_cut", *WAYS[way], "--trainer.callbacks+", "tests.cli_runs.PowerCut")
    workspace.run("fit", "--run_name", f"{way}_cut", "--ckpt_path", "latest", *WAYS[way])
    assert rows(workspace.runs / f"{way}_cut") == rows(whole)
