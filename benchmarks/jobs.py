"""Where the time of a run goes. `python -m benchmarks.jobs [NAME ...]`.

Every quickstart runs as a user runs it, by the command line, but for fewer steps and one validation after them; so do
real shapes, on networks of random weights and drawn data. Lightning's profiler tells what runs when, and here each
second of CPU time is counted once, for what runs innermost:

- data: reading, changing and collating training images (without worker processes).
- network, loss, metrics: the forward pass, the loss and the training metrics, inside of `training_step`.
- backward, optimizer: of all that is trained; clipping counts as optimizer.
- loop: Lightning and logging around them.

Of a validation: data, network, and the rest, which is loss, metrics and resizing. What comes after a validation, such
as checkpoints, merging and pictures, is a column of its own. The audit, step 0 and start-up are not in the table.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any, ClassVar

from lightning.pytorch.profilers import Profiler

QUICKSTARTS = ("eomt", "anomaly", "sam2", "morph_mae", "morph", "vqa")
RANDOM = ["--audit.allow_random_base", "true", "--data.num_workers", "0"]
NO_MAE = ["--model.network.encoder.pretrained", "false"]
# name -> configuration, options, steps
JOBS: dict[str, tuple[str, list[str], int]] = {
    **{name: (f"configs/quickstart/{name}.yaml", [], 40) for name in QUICKSTARTS},
    "morph": ("configs/quickstart/morph.yaml", [*NO_MAE, "--audit.allow_random_base", "true"], 40),
    "sam2 tiny, 1024 px": (
        "configs/sam2_lora.yaml",
        [
            *("--data", "datamodules.SteelStrips", "--data.path", "DATA", "--data.strip_size", "[256, 1600]"),
            *("--data.num_images", "40", "--data.eval_batch_size", "1", "--data.batch_size", "1"),
            *("--model.network.pretrained", "false", "--model.network.size", "tiny", *RANDOM),
        ],
        4,
    ),
    "morph, ViT-S, 224 px": (
        "configs/morph_lora.yaml",
        [
            *("--data", "datamodules.GeneratedMorphs", "--data.path", "DATA", "--data.num_train", "120", *RANDOM),
            *(*NO_MAE, "--model.network.encoder.hidden_size", "384", "--model.network.encoder.num_heads", "6"),
        ],
        5,
    ),
}
TRAINING = ("data", "network", "loss", "metrics", "backward", "optimizer", "loop")
VALIDATION = ("val data", "val network", "val rest", "after")


class Clock(Profiler):
    """A profiler that counts each second of CPU time once, for the innermost of what runs, by kinds."""

    seconds: ClassVar[defaultdict[str, float]] = defaultdict(float)
    stack: ClassVar[list[str]] = []
    last: ClassVar[float] = 0.0

    def start(self, action_name: str) -> None:
        """Begin an action."""
        self.enter(action_name)

    def stop(self, action_name: str) -> None:
        """End the innermost action."""
        self.leave()

    @classmethod
    def enter(cls, name: str) -> None:
        """Count the time since the last change for what ran until now."""
        cls._count()
        cls.stack.append(name)

    @classmethod
    def leave(cls) -> None:
        """Count the time since the last change for the innermost action, and end it."""
        cls._count()
        cls.stack.pop()

    @classmethod
    def _count(cls) -> None:
        now = time.process_time()
        cls.seconds[_kind(cls.stack)] += now - cls.last
        cls.last = now


def _kind(stack: list[str]) -> str:
    """Return what the time of the innermost action counts as; "other" is in no table."""
    text = " > ".join(stack)
    inner = stack[-1] if stack else ""
    if "sanity" in text:
        return "other"
    if "val_next" in text:
        return "val data"
    if ".validation_step" in text:
        return "val network" if inner == "network" else "val rest"
    if "validation_epoch_end" in text or "on_validation_end" in text:
        return "val rest" if "[LightningModule]" in inner else "after"
    if "train_dataloader_next" in text:
        return "data"
    if inner in ("network", "metrics"):
        return inner
    if "backward" in inner:
        return "backward"
    if "training_step" in inner:
        return "loss"
    if "optimizer_step" in inner or "configure_gradient_clipping" in inner:
        return "optimizer"
    return "loop" if "run_training_epoch" in text or "run_training_batch" in text else "other"


def measure(config: str, options: list[str], steps: int) -> None:
    """Run a job in this process, and print its row."""
    from eomt.cli import main
    from eomt.tasks.base import AdaptationTask

    def timed(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            Clock.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                Clock.leave()

        return run

    start = AdaptationTask.on_train_start

    def on_train_start(task: AdaptationTask) -> None:
        start(task)
        # from now on, without audit and step 0; SAM 2 and VQA are also run in parts
        for method in ("forward", "encode", "decode", "decode_classes", "encode_images", "answer"):
            if hasattr(task.network, method):
                setattr(task.network, method, timed("network", getattr(task.network, method)))
        task.training_metrics = timed("metrics", task.training_metrics)  # type: ignore[method-assign]
        Clock.seconds.clear()
        Clock.last = time.process_time()

    AdaptationTask.on_train_start = on_train_start  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        options = [folder + "/data" if option == "DATA" else option for option in options]
        run = [
            "--trainer.default_root_dir",
            folder,
            "--trainer.profiler",
            "benchmarks.jobs.Clock",
            "--trainer.max_steps",
            str(steps),
        ]
        run += ["--trainer.val_check_interval", str(steps), "--trainer.limit_val_batches", "4"]
        run += ["--trainer.check_val_every_n_epoch", "null"]
        main(["fit", "--config", config, *options, *run])
    per_step = [1000 * Clock.seconds[kind] / steps for kind in TRAINING]
    once = [1000 * Clock.seconds[kind] for kind in VALIDATION]
    print("ROW", " | ".join(f"{value:.0f}" for value in (sum(per_step), *per_step, *once)), flush=True)


def main_table(names: list[str]) -> None:
    """Run each job in a process of its own, and print the table."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    print("| job | step, ms | " + " | ".join((*TRAINING, *VALIDATION)) + " |")
    print("|---" * (2 + len(TRAINING) + len(VALIDATION)) + "|")
    for name in names:
        # Lightning takes the profiler from this module by its name, so this module must not be the program
        program = "import sys; from benchmarks import jobs; jobs.measure(*jobs.JOBS[sys.argv[1]])"
        command = [sys.executable, "-c", program, name]
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        rows = [line for line in result.stdout.splitlines() if line.startswith("ROW ")]
        if not rows:
            sys.exit(f"{name}:\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
        print(f"| {name} | {rows[-1].removeprefix('ROW ')} |", flush=True)


if __name__ == "__main__":
    main_table(sys.argv[1:] or list(JOBS))
