"""Trainings side by side, each in a process of its own on its own GPU or cores."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from eomt.sweep.jobs import Job, Report, Work, read_report, write_report

# seconds that a training has to save its state before it is killed
PATIENCE = 30.0


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Running:
    job: Job
    place: int
    process: BaseProcess


class Pool:
    """Processes that train.

    A server process imports the libraries once, and each training is forked from it, which saves its start of some
    seconds; where the system cannot fork, each begins anew.

    Args:
        folder: Of the sweep.
        work: What a process does with a job; it writes a report.
        workers: Trainings at a time; None takes one for each GPU, or else for each core.
        preload: Modules that the server imports.
    """

    def __init__(self, folder: Path, work: Work, workers: int | None, preload: Sequence[str]) -> None:
        self.folder, self._work = folder, work
        self.gpus = torch.cuda.device_count()
        self.workers = workers or self.gpus or usable_cores()
        self.threads = max(1, usable_cores() // self.workers)
        can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
        if can_fork:
            self._context.set_forkserver_preload(list(preload))
        self._running: list[_Running] = []

    @property
    def has_room(self) -> bool:
        """Whether another training can begin."""
        return len(self._running) < self.workers

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return not self._running

    def start(self, job: Job) -> None:
        """Begin a job."""
        place = min(set(range(self.workers)) - {running.place for running in self._running})
        environment = {"CUDA_VISIBLE_DEVICES": _visible(place % self.gpus)} if self.gpus else {}
        process = self._context.Process(
            target=self._work, args=(job, self.folder, environment, self.threads), name=job.name
        )
        # the server takes over what is set when it starts, with the first process
        with _environment(OMP_NUM_THREADS=str(self.threads), PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
            process.start()
        self._running.append(_Running(job, place, process))

    def finished(self, seconds: float | None) -> list[tuple[Job, Report]]:
        """Wait until a job ends, and return those that have, with their reports; none if the time is over before.

        A process that died without a report gets one that says so.
        """
        wait([running.process.sentinel for running in self._running], seconds)
        found = []
        for running in [other for other in self._running if not other.process.is_alive()]:
            running.process.join()
            self._running.remove(running)
            report = read_report(self.folder, running.job)
            if not report.answers(running.job):
                status = running.process.exitcode or 0
                report = replace(report, error=_cause(status))
                write_report(self.folder, running.job, report)
            found.append((running.job, report))
        return found

    def close(self) -> None:
        """End all trainings."""
        self.stop()

    def stop(self) -> list[Job]:
        """End all trainings, which save their state, and return their jobs."""
        stopped = [running.job for running in self._running]
        for running in self._running:
            running.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for running in self._running:
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.is_alive():
                running.process.kill()
                running.process.join()
        self._running.clear()
        return stopped


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables of the environment within a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _visible(gpu: int) -> str:
    """Return the name of a GPU: of those that this process sees."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[gpu] if visible else str(gpu)


def _cause(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        memory = "; the system may have been out of memory: give fewer --workers" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    return f"ended with status {status}; see its log"
