"""The trainings that plans ask for, run one beside the other, as far as the budget goes."""

import heapq
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eomt.sweep.jobs import Job, Report
from eomt.sweep.options import Budget
from eomt.sweep.search import Reports
from eomt.sweep.study import Record

Plan = Generator[list[Job], Reports, Any]
# share of the budget after which trainings of a phase are not begun any more: the rest is for the next one
PHASES = (0.6, 1.0)


class Workers(Protocol):
    """Where trainings run.

    Attributes:
        workers: How many at a time.
    """

    workers: int

    @property
    def has_room(self) -> bool:
        """Whether another training can begin."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""

    def start(self, job: Job) -> None:
        """Begin a job."""

    def finished(self, seconds: float | None) -> list[tuple[Job, Report]]:
        """Wait until a job ends, and return those that have, with their reports; none if the time is over before."""

    def stop(self) -> list[Job]:
        """End all trainings, which save their state, and return their jobs."""


@dataclass
class Allowance:
    """What of the budget is left.

    Args:
        budget: The budget.
    """

    budget: Budget
    started: float = field(default_factory=lambda: time.monotonic())
    begun: set[str] = field(default_factory=set)
    refused: int = 0
    _paces: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all trainings are stopped; None without such an end."""
        return None if self.budget.seconds is None else self.started + self.budget.seconds - time.monotonic()

    def allows(self, job: Job, report: Report) -> bool:
        """Return whether a training may begin, or go on from what it has come to."""
        share = PHASES[min(job.phase, len(PHASES) - 1)]
        # at least one training, whatever the share
        most = None if self.budget.trials is None else max(1, round(share * self.budget.trials))
        if most is not None and job.name not in self.begun and len(self.begun) >= most:
            return False
        if self.budget.seconds is not None:
            expected = (self.pace(job) or 0.0) * max(0.0, job.share - report.reached)
            if time.monotonic() - self.started + expected > share * self.budget.seconds:
                return False
        return True

    def pace(self, job: Job) -> float | None:
        """Return the expected seconds of a whole training; None while nothing is known."""
        known = self._paces[str(job.facts.get("way"))] or [pace for paces in self._paces.values() for pace in paces]
        return sum(known) / len(known) if known else None

    def learn(self, job: Job, seconds: float, share: float) -> None:
        """Note how long a share of a training took."""
        if share > 0:
            self._paces[str(job.facts.get("way"))].append(seconds / share)


class Drive:
    """Runs what plans ask for.

    Args:
        workers: Where trainings run.
        record: Of the sweep.
        allowance: Of the sweep.
        report_of: Returns what a job has come to before.
        tell: Is called with each job that has ended, its report, and how many wait.
    """

    def __init__(
        self,
        workers: Workers,
        record: Record,
        allowance: Allowance,
        report_of: Callable[[Job], Report],
        tell: Callable[[Job, Report, int], None],
    ) -> None:
        self.workers, self.record, self.allowance = workers, record, allowance
        self._report_of, self._tell = report_of, tell

    def run(self, plans: Sequence[Plan]) -> list[Any]:
        """Run plans to their ends, and return what they return."""
        results: list[Any] = [None] * len(plans)
        asked: list[list[Job]] = [[] for _ in plans]
        answers: list[dict[str, Report]] = [{} for _ in plans]
        # by phase, then the first job of each plan, then the second of each, and so on, whatever step of its plan asks:
        # where the budget ends, no plan has had much more of it than another
        queue: list[tuple[int, int, int, int, Job]] = []
        order = itertools.count()
        numbers: list[Counter[int]] = [Counter() for _ in plans]
        before: dict[str, Report] = {}

        def go_on(place: int, first: bool = False) -> None:
            """Hand a plan its answers, and queue what it asks for next."""
            try:
                while first or len(answers[place]) == len(asked[place]):
                    asked[place] = next(plans[place]) if first else plans[place].send(answers[place])
                    first, answers[place] = False, {}
                    for job in asked[place]:
                        heapq.heappush(queue, (job.phase, numbers[place][job.phase], next(order), place, job))
                        numbers[place][job.phase] += 1
                    if asked[place]:
                        break
            except StopIteration as stop:
                results[place], asked[place] = stop.value, []
                answers[place] = {"": Report()}

        def answer(place: int, job: Job, report: Report) -> None:
            answers[place][job.name] = report
            if len(answers[place]) == len(asked[place]):
                go_on(place)

        place_of: dict[str, int] = {}
        for place in range(len(plans)):
            go_on(place, first=True)
        try:
            while queue or not self.workers.is_idle:
                while queue and self.workers.has_room:
                    *_, place, job = heapq.heappop(queue)
                    report = self._report_of(job)
                    if report.answers(job):
                        self.allowance.begun.add(job.name)
                        self.record.begin(job)
                        self.record.add(job, report)
                        answer(place, job, report)
                    elif not self.allowance.allows(job, report):
                        self.allowance.refused += 1
                        answer(place, job, report)
                    else:
                        self.allowance.begun.add(job.name)
                        self.record.begin(job)
                        place_of[job.name], before[job.name] = place, report
                        self.workers.start(job)
                if self.workers.is_idle:
                    continue
                left = self.allowance.seconds_left
                ended = self.workers.finished(None if left is None else max(0.0, left))
                for job, report in ended:
                    self.record.add(job, report)
                    earlier = before[job.name]
                    self.allowance.learn(job, report.seconds - earlier.seconds, report.reached - earlier.reached)
                    self._tell(job, report, len(queue))
                    answer(place_of[job.name], job, report)
                if not ended and left is not None and left <= 0:
                    self._stop_running(place_of, answer)
        finally:
            self.workers.stop()
        return results

    def _stop_running(self, place_of: dict[str, int], answer: Callable[[int, Job, Report], None]) -> None:
        """End what runs when the time is over: it counts with what it has come to."""
        for job in self.workers.stop():
            self.allowance.refused += 1
            answer(place_of[job.name], job, self._report_of(job))
