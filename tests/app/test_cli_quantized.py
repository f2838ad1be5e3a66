"""A base in 4 or 8 bits on the command line: training, resuming, opening, merging, exporting, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import eomt
from tests.cli_runs import Workspace, make_workspace, refusal
from tests.documents import ROOT

NF4 = ("--model.lora_config.quantize", "nf4")
FULL = ("--model.lora_config.quantize", "null")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("quantized"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first", *NF4)


def summary(run: Path) -> dict:
    return json.loads((run / "training_summary.json").read_text())


def best(run: Path) -> Path:
    return next(run.glob("best_lora_*.ckpt"))


def final(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "final_lora_step8.ckpt", weights_only=True)["state_dict"]


def iou(workspace: Workspace, capsys: pytest.CaptureFixture[str], weights: Path, *args: str) -> float:
    """What `validate` measures of weights."""
    capsys.readouterr()
    workspace.run("validate", "--ckpt_path", str(weights), *args, config=False)
    found = re.search(r"val_iou +│ +(\d\.\d+)", capsys.readouterr().out)
    assert found is not None
    return round(float(found[1]), 4)


def test_a_run_says_what_it_quantized_and_how_far_the_merged_model_is(run: Path) -> None:
    found = summary(run)
    assert found["base"]["quantization"] == "nf4"
    assert found["best"] > found["baseline"]
    assert "24 adapters act and learn" in found["audit"]
    assert found["merge_relative_diff"] <= 1e-4 < found["merge_quantized_diff"]
    log = (run / "training.log").read_text()
    assert "[LoRA] Quantized: nf4, 24 frozen linear layers, 1.0 MB before and 0.1 MB now" in log
    assert "the base is not quantized in it: answers differ by" in log
    kinds = {name.rpartition(".")[2] for name in final(run)}
    assert kinds == {"lora_a", "lora_b", "weight", "bias", "attn_mask_probs"}


def test_its_fingerprint_and_its_adapter_are_those_of_a_plain_base(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = workspace.fit("full")
    assert summary(full)["base"]["fingerprint"] == summary(run)["base"]["fingerprint"]
    assert summary(full)["adapter_bytes"] == summary(run)["adapter_bytes"]
    # without quantize, the checkpoint and the adapter answer as the merged model does
    in_full = iou(workspace, capsys, next(run.glob("best_merged_*")))
    for weights in (best(run), best(run).with_suffix("")):
        assert iou(workspace, capsys, weights, *FULL) == in_full
        assert iou(workspace, capsys, weights) == round(summary(run)["best"], 4) != in_full


def test_a_resumed_run_is_bit_exact_and_stays_quantized(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        workspace.fit("cut", *NF4, "--trainer.callbacks+", "tests.cli_runs.PowerCut")
    other = refusal(capsys, workspace, "fit", "--run_name", "cut", "--ckpt_path", "latest", *FULL)
    assert "quantize is nf4 in the checkpoint, null in lora_config" in other
    resumed = workspace.fit("cut", *NF4, "--ckpt_path", "latest")
    assert all(torch.equal(final(run)[name], value) for name, value in final(resumed).items())
    assert (resumed / "metrics.csv").read_text() == (run / "metrics.csv").read_text()


def test_merge_writes_what_the_run_wrote_and_says_the_difference(
    workspace: Workspace, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = workspace.folder / "merged"
    workspace.run("merge", "--ckpt_path", str(best(run)), "--output", str(output), config=False)
    said = capsys.readouterr().out
    apart = summary(run)["merge_quantized_diff"]
    assert f"The base is not quantized in it: answers differ by {apart:.1e} from those over the quantized base" in said
    written = load_file(output / "model.safetensors")
    of_run = load_file(next(run.glob("best_merged_*")) / "model.safetensors")
    assert all(torch.equal(value, of_run[name]) for name, value in written.items())


@pytest.mark.slow
def test_graphs_are_those_of_the_merged_model(workspace: Workspace, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    output = workspace.folder / "graphs"
    workspace.run("export", "--ckpt_path", str(best(run)), "--output", str(output), config=False)
    images = sorted((workspace.folder / "data" / "val" / "images").iterdir())
    graph, merged = eomt.load(output), eomt.load(next(run.glob("best_merged_*")), "cpu")
    # over the quantized base, as the run had it
    quantized = eomt.load(run, "cpu")
    found = [[model.predict(path).class_map for path in images] for model in (graph, merged, quantized)]
    for of_graph, of_merged, of_quantized in zip(*found, strict=True):
        # but for pixels between two classes
        assert (of_graph == of_merged).mean() > 0.999 > (of_quantized == of_merged).mean() > 0.9


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--model.lora_config.quantize", "int4"), "model.lora_config.quantize: int4; must be int8, nf4, null"),
        ((*NF4, "--model.lora_config.backend", "peft"), "quantize: nf4 with backend: peft"),
        ((*NF4, "--model.lora_config.freeze_base_model", "false"), "freeze_base_model: false trains the base"),
        ((*NF4, "--model.lora_config", "null"), "model.lora_config: null, and --model.lora_config.quantize is given"),
        ((*NF4, "--trainer.strategy", "sharded"), "trainer.strategy: sharded, but lora_config.quantize is nf4"),
    ],
)
def test_what_cannot_be_is_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    found = refusal(capsys, workspace, "fit", "--run_name", "refused", *args)
    assert message in found


def test_inspect_counts_bytes_as_they_are_held(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    weights = []
    for args in ((), NF4):
        capsys.readouterr()
        workspace.run("inspect", "--data", "null", *args)
        said = capsys.readouterr().out
        found = re.search(r"memory: floor .* = weights ([\d.]+)", said)
        assert found is not None
        weights.append(float(found[1]))
        assert "Total: 316,292" in said
    # 245,760 values of 32 bits, now of 4.5
    assert weights[0] - weights[1] == pytest.approx(245_760 * (32 - 4.5) / 8 / 2**20, abs=0.11)


@pytest.mark.slow
def test_two_processes_train_over_it_and_the_first_merges(workspace: Workspace, run: Path) -> None:
    command = [sys.executable, "main.py", "fit", "--config", str(workspace.config), "--run_name", "two", *NF4]
    command += ["--trainer.default_root_dir", str(workspace.runs), "--data.batch_size", "1"]
    command += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # of a group that an earlier test made
    environment.pop("MASTER_PORT", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    one, two = summary(run), summary(workspace.runs / "two")
    assert two["merge_relative_diff"] <= 1e-4 < two["merge_quantized_diff"]
    assert two["baseline"] == pytest.approx(one["baseline"], abs=1e-6)
    assert two["best"] > two["baseline"]
