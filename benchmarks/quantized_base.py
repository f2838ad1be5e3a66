"""What does a frozen base in 8 or 4 bits cost? `python -m benchmarks.quantized_base [WEIGHTS DATA [OUT]]`.

WEIGHTS is DINOv2-small in Hugging Face layout. DATA is a folder of images and masks with train and val.

Without arguments, a step is timed, and its memory estimated, on one image of 224 pixels and random weights of EoMT on a
ViT-S/16: the three bases in turn, and the quickest of twelve rounds.

LoRA on attention and MLP as in `benchmarks.nuclei`, over the base in full, in int8 and in nf4, with three seeds each,
one after the other on one thread. The best network is then merged into the base in full, and validated again. Runs that
exist are not repeated.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.nuclei import SEEDS, command
from benchmarks.small_tasks import HEADS, adapt, eomt
from eomt.tasks.base import AdaptationTask
from eomt.verification.memory import StepMemory, step_memory

LABELS = {"null": "as it is", "int8": "int8", "nf4": "nf4"}
RATE, STEPS = "1e-3", "50"
ROUNDS = 12


def run(weights: str, data: str, out: Path, kind: str, seed: int) -> dict[str, Any]:
    """Train once, and return the IoU before and after merging, bytes of the quantized layers, and seconds a step."""
    name = f"{kind}_seed{seed}"
    record = out / f"{name}.json"
    if not record.is_file():
        way = ["--model.lora_config.target_modules", "[attention, mlp]", "--model.lora_config.quantize", kind]
        output = printed(
            [*command(weights, data, out, name, way, RATE, seed), "--trainer.max_steps", STEPS], out / f"{name}.log"
        )
        summary = json.loads((out / name / "training_summary.json").read_text())
        merged = next((out / name).glob("best_merged_*"))
        validated = printed(
            [sys.executable, "main.py", "validate", "--ckpt_path", str(merged)], out / f"{name}_merged.log"
        )
        sizes = re.search(r"Quantized: .* layers, ([\d.,]+) MB before and ([\d.,]+) MB now", output)
        found = re.search(r"val_iou ([\d.]+)", validated)
        assert found is not None
        result = {
            "step0": summary["baseline"],
            "iou": summary["best"],
            "merged_iou": float(found[1]),
            "merge_relative_diff": summary["merge_relative_diff"],
            "merge_quantized_diff": summary["merge_quantized_diff"],
            "megabytes": None if sizes is None else [float(size.replace(",", "")) for size in sizes.groups()],
        }
        record.write_text(json.dumps(result))
        print(name, result, flush=True)
    return json.loads(record.read_text())


def printed(arguments: list[str], log: Path) -> str:
    """Run a command on one thread, and return what it prints, which is also written to a file."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log.write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f"{log.stem} failed:\n{done.stdout}")
    return done.stdout


def loss_of(task: AdaptationTask, batch: dict[str, Any]) -> Tensor:
    """Return the loss of a training batch."""
    return task.losses(batch)[0]["loss"]


def steps() -> dict[str, StepMemory]:
    """Return what a step takes with each base, its time as that of the quickest of twelve rounds."""
    kinds = {"null": None, "int8": "int8", "nf4": "nf4"}
    tasks = {
        name: eomt(adapt(["attention", "mlp"], HEADS, quantize=kind), "floor", False) for name, kind in kinds.items()
    }
    found: dict[str, StepMemory] = {}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            step = step_memory(task, partial(loss_of, task), task.synthetic_batch(1), 1)
            found[name] = min(found.get(name, step), step, key=lambda step: step.seconds)
    return found


def main() -> None:
    """Run everything, and print the tables."""
    if len(sys.argv) < 3:
        torch.set_num_threads(1)
        print("| base | weights MiB | activations MiB | ms a step |")
        print("|---|---|---|---|")
        for name, step in steps().items():
            memory = step.at(1)
            sizes = f"{memory.weights / 2**20:.1f} | {memory.activations / 2**20:.1f}"
            print(f"| {LABELS[name]} | {sizes} | {1e3 * step.seconds:.0f} |")
        return
    weights, data, out = sys.argv[1], sys.argv[2], Path(sys.argv[3] if len(sys.argv) > 3 else "runs/quantized_base")
    out.mkdir(parents=True, exist_ok=True)
    found = {kind: [run(weights, data, out, kind, seed) for seed in SEEDS] for kind in LABELS}
    # the layers that are quantized, as they are without
    before = found["int8"][0]["megabytes"][0]
    print("| base | MB of its layers | IoU at step 0 | IoU (3 seeds) | spread | merged | difference |")
    print("|---|---|---|---|---|---|---|")
    for kind, results in found.items():
        scores = [result["iou"] for result in results]
        apart = [result["merge_quantized_diff"] for result in results]
        row = [
            LABELS[kind],
            f"{before if kind == 'null' else results[0]['megabytes'][1]:.1f}",
            f"{statistics.mean(result['step0'] for result in results):.3f}",
            f"{statistics.mean(scores):.3f}",
            f"{min(scores):.3f}-{max(scores):.3f}",
            f"{statistics.mean(result['merged_iou'] for result in results):.3f}",
            "-" if kind == "null" else f"{max(apart):.2f}",
        ]
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
