"""Does `inspect` estimate the peak memory of training well? `python -m benchmarks.memory [TEXT]`.

Each task trains on the CPU with each setting of `model.memory`: networks in the size of ViT-S with random weights,
synthetic batches, fp32, one thread (`benchmarks.small_tasks`; only cases whose name holds TEXT, if it is given). The
estimate comes from `eomt.verification.memory`, on steps of one and two samples. The measurement is independent of it:
Lightning trains a few steps in a fresh process, and the kernel reports the highest resident memory, less what was
resident before the network was built. By then a tiny training of the same kind has loaded and warmed up the libraries.

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

from torch.utils.data import DataLoader

from benchmarks.small_tasks import CASES, make_task
from datamodules.common.data_module import DataModule
from eomt.app.log import set_up_output
from eomt.app.trainer import Trainer
from eomt.models.memory import SETTINGS, Memory
from eomt.tasks.base import AdaptationTask
from eomt.verification.memory import TrainingMemory, step_memory

STEPS = 2
HONEST_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
MEBIBYTE = 2**20


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


class SyntheticData(DataModule):
    """The same synthetic batch for each step.

    Args:
        task: The task that makes the batch.
        batch_size: Samples in it.
        steps: Number of steps.
    """

    def __init__(self, task: AdaptationTask, batch_size: int, steps: int) -> None:
        super().__init__(batch_size)
        self.batches: Any = [task.synthetic_batch(batch_size)] * steps

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the batches."""
        return DataLoader(self.batches, batch_size=None)


def train(task: AdaptationTask, batch_size: int, steps: int) -> None:
    """Train real steps, including the optimizer."""
    make_trainer(steps).fit(task, datamodule=SyntheticData(task, batch_size, steps))


def estimate(case: str, memory: Memory) -> TrainingMemory:
    """Return the estimate that `inspect` prints."""
    task, size = make_task(case, memory), CASES[case].batch_size
    task.trainer = trainer = make_trainer(1)
    trainer.optimizers = [task.configure_optimizers()["optimizer"]]
    return step_memory(task, task.unlogged_step, task.synthetic_batch(2), size, first=task.first_samples).at(size)


def measure(case: str, memory: Memory) -> int:
    """Return the bytes resident at the peak of training, less those resident before."""
    size = CASES[case].batch_size
    train(make_task(case, memory, tiny=True), size, 2)
    gc.collect()
    before = _resident("VmRSS")
    # resets the kernel's record of the highest resident memory
    Path("/proc/self/clear_refs").write_text("5")
    train(make_task(case, memory), size, STEPS)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def in_fresh_process(what: str, case: str, memory: Memory) -> dict[str, int]:
    """Run this module as a program in a process of its own, and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.memory", what, case, memory]
    environment = os.environ | HONEST_MALLOC | ONE_THREAD
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main(text: str) -> None:
    """Measure the cases whose name holds a text, and print the table."""
    print("| | memory | weights | gradients + AdamW | activations | estimate | measured | off by |")
    print("|---|---|---|---|---|---|---|---|")
    for case in (name for name in CASES if text in name):
        for memory in SETTINGS:
            found = TrainingMemory(**in_fresh_process("estimate", case, memory))
            measured = in_fresh_process("measure", case, memory)["peak"]
            states = found.gradients + found.optimizer_states
            figures = (found.weights, states, found.activations, found.total, measured)
            cells = " | ".join(f"{figure / MEBIBYTE:.0f}" for figure in figures)
            off = 100 * (found.total / measured - 1)
            print(f"| {case} | {memory} | {cells} | {off:+.0f} % |", flush=True)


if __name__ == "__main__":
    set_up_output()
    warnings.filterwarnings("ignore")
    if len(sys.argv) <= 2:
        main("".join(sys.argv[1:]))
    elif sys.argv[1] == "estimate":
        print(json.dumps(vars(estimate(sys.argv[2], cast(Memory, sys.argv[3])))))
    else:
        print(json.dumps({"peak": measure(sys.argv[2], cast(Memory, sys.argv[3]))}))
