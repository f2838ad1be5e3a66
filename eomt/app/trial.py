"""A training of a sweep, in a process of its own."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import LoRACheckpoint
from eomt.app.command_line import CLI
from eomt.app.log import set_up_output, silence_libraries
from eomt.app.messages import as_user_error, one_line
from eomt.app.runs import newest_checkpoint
from eomt.app.signals import Ending, is_termination
from eomt.lora.summary import get_lora_stats
from eomt.reports.run_files import read_evaluation
from eomt.sweep.jobs import CONFIGS, LOGS, RUNS, WINNER, Job, Report, read_report, write_report
from eomt.tasks.base import AdaptationTask
from eomt.utils.files import write_file

# seconds that a training has to save its state when the sweep has ended
PATIENCE = 60.0
# exit status of a training that was stopped before it could report
STOPPED = 128 + signal.SIGTERM


class PausedError(Exception):
    """The pause of a training behind a validation."""


class Pause(Callback):
    """A callback that ends a training behind the first validation after a share of its steps, as a stop would do.

    Args:
        share: The share; 1 for the end.
        report: What is filled in.
    """

    def __init__(self, share: float, report: Report) -> None:
        self.share, self.report = share, report
        self._is_due = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what is trained."""
        assert isinstance(pl_module, AdaptationTask)
        self.report.trained = get_lora_stats(pl_module.network)["trainable_parameters"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the best so far, and whether the share is reached."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        planned = int(trainer.estimated_stepping_batches)
        self.note(trainer, trainer.global_step / planned, planned)
        self._is_due = self.share <= self.report.reached < 1 and not trainer.should_stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Pause where it is due.

        Raises:
            PausedError: If it is.
        """
        if self._is_due:
            raise PausedError

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end: early stopping is one, too."""
        self.note(trainer, 1.0, int(trainer.estimated_stepping_batches))

    def note(self, trainer: Trainer, reached: float, planned: int) -> None:
        """Fill in the report."""
        checkpoint = next(c for c in trainer.checkpoint_callbacks if isinstance(c, LoRACheckpoint))
        self.report.reached, self.report.steps = reached, planned
        self.report.score, self.report.step = checkpoint.best_score, checkpoint.best_step
        self.report.baseline = checkpoint.baseline
        self.report.batches = int(trainer.num_training_batches) if math.isfinite(trainer.num_training_batches) else None
        files = (
            Path(trainer.default_root_dir) / checkpoint.best_name.removesuffix(".ckpt") / "adapter_model.safetensors"
        )
        trained = trained_bytes(trainer.lightning_module)
        self.report.file_bytes = files.stat().st_size if files.is_file() else trained


def trained_bytes(task: LightningModule) -> int:
    """Return the bytes of the trained tensors."""
    return sum(value.numel() * value.element_size() for value in task.parameters() if value.requires_grad)


class TrialCLI(CLI):
    """The command line with a pause.

    Args:
        args: Arguments of the command.
        pause: The pause.
    """

    def __init__(self, args: list[str], pause: Pause) -> None:
        self.pause = pause
        super().__init__(args)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer with the pause behind all other callbacks, which save first."""
        trainer = super().instantiate_trainer(**kwargs)
        vars(trainer)["callbacks"].append(self.pause)
        return trainer


def run_job(job: Job, folder: Path, environment: dict[str, str], threads: int) -> None:
    """Run a job in this process, which ends with it, and write its report into the sweep's folder.

    Args:
        job: What to do.
        folder: Of the sweep.
        environment: Variables that this process alone gets, such as its GPU.
        threads: For computing.
    """
    os.environ.update(environment)
    torch.set_num_threads(threads)
    log = folder / LOGS / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    # Ctrl-C is for the sweep, which stops its trainings itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_sweep, daemon=True, name="end-with-sweep").start()
    report = read_report(folder, job)
    before, started = report.seconds, time.monotonic()
    set_up_output()
    silence_libraries()
    ending = Ending()
    with ending.watched():
        try:
            TrialCLI(_arguments(job, folder), Pause(job.share, report))
        except PausedError:
            pass
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if ending.number is not None or is_termination(error):
                sys.exit(STOPPED)
            user_error = as_user_error(error) if isinstance(error, Exception) else None
            report.error = one_line(user_error if user_error is not None else error)
            print(f"error: {report.error}", flush=True)
    if job.command == "test" and report.error is None:
        found = read_evaluation(folder / RUNS / job.name)
        report.figures = dict(found[1]["metrics"]) if found else {}
    if job.command != "fit":
        report.reached = 1.0
    report.seconds = before + time.monotonic() - started
    report.memory = max(report.memory, _peak())
    write_report(folder, job, report)


def _arguments(job: Job, folder: Path) -> list[str]:
    """Return the command line of a job, whose configuration is written."""
    file = folder / CONFIGS / f"{job.name}{'' if job.command == 'fit' else f'.{job.command}'}.yaml"
    if not file.is_file():
        write_file(file, lambda path: path.write_text(yaml.safe_dump(dict(job.config), sort_keys=False)))
    runs = folder / RUNS
    args = [job.command, "--config", str(file), "--run_name", job.name, "--trainer.default_root_dir", str(runs)]
    alias = "latest" if job.command == "fit" else "best"
    if job.command == "merge":
        args += ["--output", str(folder / WINNER)]
    if (run := runs / job.name).is_dir() and newest_checkpoint(run, alias) is not None:
        args += ["--ckpt_path", alias]
    return args


def _end_with_sweep() -> None:
    """Stop this process when the sweep's has ended, however: nobody would look at what it does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(STOPPED)


def _peak() -> int:
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    # Windows has no such module
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # kilobytes, but for macOS, where they are bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0
