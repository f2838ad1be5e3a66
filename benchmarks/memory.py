"""Does `inspect` estimate the peak memory of training well? `python -m benchmarks.memory`.

EoMT on a random ViT-S trains in three ways, each with every setting of `model.memory`: 224 px, synthetic batches of 4,
fp32, one thread, on the CPU. The estimate comes from `eomt.verification.memory`, on steps of one and two samples. The
measurement is independent of it: Lightning trains a few steps in a fresh process, and the kernel reports the highest
resident memory, less what was resident before the network was built. By then a tiny training has loaded and warmed up
the libraries.

The allocator returns large blocks at once, so that resident memory is memory in use.
"""

import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from eomt.app.log import set_up_output
from eomt.app.trainer import Trainer
from eomt.lora.config import LoRAConfig
from eomt.models import EoMT, ViT
from eomt.models.memory import SETTINGS, Memory
from eomt.tasks import SemanticSegmentation
from eomt.verification.memory import TrainingMemory, step_memory

BATCH, PIXELS, CLASSES, QUERIES, STEPS = 4, 224, 19, 100, 3
HEADS = ["q", "class_head", "mask_head", "upscale"]
WAYS: dict[str, LoRAConfig | None] = {
    "LoRA r=8, attention + MLP": LoRAConfig(
        target_modules=["attention", "mlp"], trainable_modules=HEADS, freeze_base_model=True
    ),
    "heads only (frozen encoder)": LoRAConfig(enabled=False, trainable_modules=HEADS, freeze_base_model=True),
    "full fine-tuning": None,
}
HONEST_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
MEBIBYTE = 2**20


def make_task(
    way: str, memory: Memory, backbone: str = "vit_small_patch16_224", pixels: int = PIXELS
) -> SemanticSegmentation:
    """Return a task with random weights, to be trained in one of `WAYS`."""
    torch.manual_seed(0)
    encoder = ViT(backbone, (pixels, pixels), pretrained=False)
    return SemanticSegmentation(EoMT(encoder, CLASSES, QUERIES), WAYS[way], memory=memory)


def make_trainer(steps: int) -> Trainer:
    """Return a trainer for a number of steps on the CPU, without files and without output."""
    return Trainer(
        accelerator="cpu",
        precision="32-true",
        logger=False,
        max_steps=steps,
        max_epochs=-1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train(task: SemanticSegmentation, batch_size: int, steps: int) -> None:
    """Train real steps, including the optimizer."""
    batches: Any = [task.synthetic_batch(batch_size)] * steps
    make_trainer(steps).fit(task, DataLoader(batches, batch_size=None))


def estimate(way: str, memory: Memory) -> TrainingMemory:
    """Return the estimate that `inspect` prints."""
    task = make_task(way, memory)
    task.trainer = trainer = make_trainer(1)
    trainer.optimizers = [task.configure_optimizers()["optimizer"]]
    return step_memory(task, task.unlogged_step, task.synthetic_batch(2), BATCH).at(BATCH)


def measure(way: str, memory: Memory) -> int:
    """Return the bytes resident at the peak of training, less those resident before."""
    train(make_task(way, memory, "test_vit", 64), BATCH, 2)
    gc.collect()
    before = _resident("VmRSS")
    # resets the kernel's record of the highest resident memory
    Path("/proc/self/clear_refs").write_text("5")
    train(make_task(way, memory), BATCH, STEPS)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def in_fresh_process(what: str, way: str, memory: Memory) -> dict[str, int]:
    """Run this module as a program in a process of its own, and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.memory", what, way, memory]
    environment = os.environ | HONEST_MALLOC | ONE_THREAD
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print the table."""
    print("| | memory | weights | gradients + AdamW | activations | estimate | measured | off by |")
    print("|---|---|---|---|---|---|---|---|")
    for way in WAYS:
        for memory in SETTINGS:
            found = TrainingMemory(**in_fresh_process("estimate", way, memory))
            measured = in_fresh_process("measure", way, memory)["peak"]
            states = found.gradients + found.optimizer_states
            figures = (found.weights, states, found.activations, found.total, measured)
            cells = " | ".join(f"{figure / MEBIBYTE:.0f}" for figure in figures)
            off = 100 * (found.total / measured - 1)
            print(f"| {way} | {memory} | {cells} | {off:+.0f} % |", flush=True)


if __name__ == "__main__":
    set_up_output()
    warnings.filterwarnings("ignore")
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "estimate":
        print(json.dumps(vars(estimate(sys.argv[2], cast(Memory, sys.argv[3])))))
    else:
        print(json.dumps({"peak": measure(sys.argv[2], cast(Memory, sys.argv[3]))}))
