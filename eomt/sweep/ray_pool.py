"""Trainings of a sweep on a Ray cluster, each a task of its own."""

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from eomt.sweep.jobs import Job, Report, Work, read_report, write_report
from eomt.sweep.pool import PATIENCE, usable_cores
from eomt.utils.ray_cluster import cluster

# how often Ray begins a training anew whose process or machine died; it goes on from its last checkpoint
MAX_RETRIES = 2
# tells trainings on all machines to save their state and end
STOP = "stop"
# seconds between two looks for it
INTERVAL = 0.5


class RayPool:
    """Tasks of Ray that train; the sweep alone decides which, so that its table does not depend on their order.

    Args:
        folder: Of the sweep; all machines of the cluster must see it under this path.
        work: What a process does with a job; it writes a report.
        workers: Trainings at a time; None takes one for each GPU of the cluster, or else for each core.
    """

    def __init__(self, folder: Path, work: Work, workers: int | None) -> None:
        self.folder, self._work = folder.absolute(), work
        self._stack = contextlib.ExitStack()
        self._ray = self._stack.enter_context(cluster(workers or 1))
        resources = self._ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        cores = int(resources.get("CPU", usable_cores()))
        self.workers = workers or self.gpus or cores
        self.threads = max(1, cores // self.workers)
        self._running: dict[Any, Job] = {}
        (self.folder / STOP).unlink(missing_ok=True)

    @property
    def has_room(self) -> bool:
        """Whether another training can begin."""
        return len(self._running) < self.workers

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return not self._running

    def start(self, job: Job) -> None:
        """Begin a job, or let it wait for room in the cluster."""
        # a process for each: a training leaves its settings behind
        task = self._ray.remote(max_calls=1, max_retries=MAX_RETRIES)(_train).options(
            name=job.name, num_cpus=self.threads, num_gpus=1 if self.gpus else 0
        )
        self._running[task.remote(self._work, job, self.folder, self.threads)] = job

    def finished(self, seconds: float | None) -> list[tuple[Job, Report]]:
        """Wait until a job ends, and return those that have, with their reports; none if the time is over before.

        A training that Ray gave up gets a report that says so.
        """
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        found = []
        for reference in done:
            job, cause = self._running.pop(reference), "ended without a report; see its log"
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                cause = f"Ray gave it up: {str(error).strip().splitlines()[0]}"
            report = read_report(self.folder, job)
            if not report.answers(job):
                report = replace(report, error=cause)
                write_report(self.folder, job, report)
            found.append((job, report))
        return found

    def stop(self) -> list[Job]:
        """End all trainings, which save their state, and return their jobs."""
        stopped = list(self._running.values())
        if stopped:
            (self.folder / STOP).touch()
            _, left = self._ray.wait(list(self._running), num_returns=len(stopped), timeout=PATIENCE)
            # Ray aborts this process where it is told to cancel what has just ended
            for reference in left:
                self._ray.cancel(reference, force=True)
            self._running.clear()
            (self.folder / STOP).unlink()
        return stopped

    def close(self) -> None:
        """Leave the cluster, and end it if it was begun here."""
        self.stop()
        self._stack.close()


def _train(work: Work, job: Job, folder: Path, threads: int) -> None:
    """Do a job in a process of the cluster."""
    threading.Thread(target=_end_when_told, args=(folder / STOP,), daemon=True, name="end-when-told").start()
    # what is stopped exits, and is not to be begun anew
    with contextlib.suppress(SystemExit):
        work(job, folder, {}, threads)


def _end_when_told(file: Path) -> None:
    while not file.exists():
        time.sleep(INTERVAL)
    os.kill(os.getpid(), signal.SIGTERM)
