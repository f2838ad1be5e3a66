"""Sweeps whose trainings are made up: what a sweep decides, without a second of training."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eomt.sweep.jobs import Job, Report, read_report, write_report
from eomt.sweep.options import SweepOptions
from eomt.sweep.run import Subject, Sweep
from tests.tiny import make_eomt

Score = Callable[[Job], float | Exception | None]
# rate at which each way is best, and its score there
PEAKS = {"heads": (3e-3, 0.6), "attention": (1e-3, 0.8), "attention_mlp": (3e-4, 0.85), "last": (3e-4, 0.7)}
PEAKS |= {"full": (3e-5, 0.75)}
# seconds of a whole training
WHOLE = 60.0


def peak_score(job: Job) -> float:
    """A score that falls off on both sides of a way's best rate; folds differ a little."""
    best, score = PEAKS[job.facts["way"]]
    fold = float(str(job.facts["fold"])[0])
    return score - 0.1 * math.log10(job.facts["lr"] / best) ** 2 - 0.001 * fold


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class MadeUpWorkers:
    """Workers that finish a job when they are asked; a score that is an exception is the error of a training.

    Args:
        folder: Of the sweep.
        score: Returns the score of a job.
        workers: Jobs at a time.
        clock: Is moved on by the seconds of each job; None where time does not count.

    Attributes:
        begun: The trainings.
    """

    def __init__(self, folder: Path, score: Score = peak_score, workers: int = 2, clock: "Clock | None" = None) -> None:
        self.folder, self.score, self.workers, self.clock = folder, score, workers, clock
        self.running: list[Job] = []
        self.begun: list[Job] = []

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.workers

    @property
    def is_idle(self) -> bool:
        return not self.running

    def start(self, job: Job) -> None:
        self.running.append(job)
        if job.command == "fit":
            self.begun.append(job)

    def finished(self, seconds: float | None) -> list[tuple[Job, Report]]:
        report = read_report(self.folder, self.running[0])
        took = WHOLE * max(0.0, self.running[0].share - report.reached)
        if self.clock is not None:
            self.clock.now += took if seconds is None else min(took, seconds)
            if seconds is not None and took > seconds:
                return []
        job = self.running.pop(0)
        found = self.score(job) if job.command == "fit" else 0.5
        if isinstance(found, Exception):
            report.error = str(found)
        else:
            report.reached, report.score = job.share, found
            report.steps, report.batches, report.baseline = 100, 10, 0.1
        report.seconds += took
        report.trained = 1000 + len(job.facts.get("way", ""))
        report.file_bytes = 4 * report.trained
        if job.command == "test":
            report.figures = {"test_iou": 0.5}
        write_report(self.folder, job, report)
        return [(job, report)]

    def stop(self) -> list[Job]:
        stopped, self.running = self.running, []
        return stopped


def make_config(**lora: Any) -> dict[str, Any]:
    """A whole configuration."""
    fields = {"rank": 8, "lora_alpha": 16, "target_modules": ["attention", "mlp"], "freeze_base_model": True}
    fields |= {"trainable_modules": ["class_head"], "enabled": True, "exclude_modules": [], **lora}
    return {
        "seed_everything": 7,
        "model": {
            "class_path": "eomt.tasks.SemanticSegmentation",
            "init_args": {
                "lr": 1e-3,
                "head_lr": None,
                "network": {"class_path": "eomt.models.EoMT", "init_args": {"num_q": 6}},
                "lora_config": {"class_path": "eomt.models.lora_integration.LoRAConfig", "init_args": fields},
            },
        },
        "data": {
            "class_path": "datamodules.ImageMaskFolder",
            "init_args": {"path": "x", "splits": None, "train_share": 1.0, "batch_size": 2},
        },
        "trainer": {
            "callbacks": [{"class_path": "callbacks.MergeOnSave"}, {"class_path": "callbacks.EarlyStoppingOnIoU"}],
            "logger": True,
            "enable_progress_bar": None,
            "devices": "auto",
            "num_nodes": 1,
            "strategy": "auto",
            "max_epochs": 10,
            "max_steps": -1,
            "check_val_every_n_epoch": 1,
            "val_check_interval": None,
            "default_root_dir": "runs",
        },
    }


def make_sweep(
    folder: Path,
    workers: MadeUpWorkers | None = None,
    config: Mapping[str, Any] | None = None,
    folds: int = 0,
    images: int = 1,
    **options: Any,
) -> tuple[Sweep, list[str]]:
    """Return a sweep in a folder, and the lines that it will show."""
    folder.mkdir(exist_ok=True)
    lines: list[str] = []
    records = [{"train": list("abcdefghijklmnop"[:images]), "val": ["y"], "test": ["z"]}] * folds
    subject = Subject(config or make_config(), make_eomt(3), True, "val_iou", "max", "model.lr", records, 40)
    return Sweep(subject, SweepOptions(**options), folder, workers or MadeUpWorkers(folder), lines.append), lines
