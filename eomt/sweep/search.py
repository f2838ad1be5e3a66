"""The search of each way for its learning rate, and the measurement of what it found.

A plan is a generator: it yields the jobs that it needs next, gets their reports, and returns what it found. What it
does depends on these reports alone, so that a sweep that was killed comes to the same end when it goes on.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from eomt.sweep.jobs import Job, Report
from eomt.sweep.settings import changed
from eomt.sweep.study import kept
from eomt.sweep.ways import STEP, Way, rate_text, round_rate

Mode = Literal["min", "max"]
Reports = Mapping[str, Report]
# shares of the steps after which the worse half of a way's trainings is given up
RUNGS = (0.25, 0.5, 1.0)
# learning rates are added within these ends, and this many at most
LOWEST, HIGHEST, MOST_ADDED = 1e-6, 3e-1, 4


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of training at one learning rate, with one choice of the grid.

    Attributes:
        way: The way.
        lr: The learning rate.
        choice: Values of the grid's fields by address.
        number: Of the choice, for its name.
    """

    way: Way
    lr: float
    choice: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0

    @property
    def name(self) -> str:
        """Name of its run."""
        grid = f"_grid{self.number}" if self.choice else ""
        return f"{self.way.name}{grid}_lr{rate_text(self.lr)}"

    @property
    def is_given(self) -> bool:
        """Whether this is the configuration as it was given."""
        return self.way.is_given and self.lr == self.way.given_rate and not self.choice

    @property
    def title(self) -> str:
        """Name for people, without the rate."""
        fields = ", ".join(f"{address.rpartition('.')[2]} {value}" for address, value in self.choice.items())
        return f"{self.way.title}{f' ({fields})' if fields else ''}"


@dataclass
class Found:
    """What the search of a way came to.

    Attributes:
        way: The way.
        arms: All that was tried, with the report of each.
        best: The best that was trained to its end; if none was, of those that came furthest. None without a score.
        is_whole: Whether nothing was left out for want of budget.
        is_edge: Whether the best rate is the lowest or highest of those that came to a score or failed.
    """

    way: Way
    arms: dict[Arm, Report] = field(default_factory=dict)
    best: Arm | None = None
    is_whole: bool = True
    is_edge: bool = False


@dataclass(frozen=True)
class Recipe:
    """What makes a job of an arm.

    Attributes:
        base: The configuration of a training of the sweep.
        rate: Address of the learning rate.
        mode: Whether the best score is the highest or the lowest.
        has_head_rate: Whether the task has a learning rate for heads.
    """

    base: Mapping[str, Any]
    rate: str
    mode: Mode
    has_head_rate: bool

    def config(self, arm: Arm, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the configuration of an arm."""
        return changed(self.base, {**self.changes(arm), **(changes or {})})

    def changes(self, arm: Arm) -> dict[str, Any]:
        """Return what an arm changes in the configuration, by address."""
        init_args = self.base["model"]["init_args"]
        values: dict[str, Any] = {"model.lora_config": arm.way.lora_config, self.rate: arm.lr}
        if self.has_head_rate:
            given = init_args.get("head_lr")
            # the configuration's own way keeps the ratio of its two rates; of the others one rate is for all
            keeps = arm.way.is_given and given is not None
            values["model.head_lr"] = arm.lr * given / init_args["lr"] if keeps else None
        return {**values, **arm.choice}

    def job(self, arm: Arm, share: float) -> Job:
        """Return the training of an arm on the split of the data, up to a share of its steps."""
        facts = {"way": arm.way.name, "lr": arm.lr, "fold": "0", **arm.choice}
        return Job(arm.name, self.config(arm), share, facts=facts)

    def fold_job(self, arm: Arm, fold: Mapping[str, Any], number: int, suffix: str = "") -> Job:
        """Return the whole training of an arm with the changes that make a fold."""
        facts = {"way": arm.way.name, "lr": arm.lr, "fold": f"{number}{suffix}", **arm.choice}
        return Job(f"{arm.name}_fold{number}{suffix}", self.config(arm, fold), facts=facts, phase=1)


def search(
    way: Way, choices: Sequence[Mapping[str, Any]], recipe: Recipe, rates: Sequence[float] | None
) -> Generator[list[Job], Reports, Found]:
    """Search the learning rate of a way, for each choice of the grid; its worse trainings are given up early.

    Args:
        way: The way.
        choices: Of the grid; one that is empty without a grid.
        recipe: Makes the jobs.
        rates: Learning rates; None takes the way's own, and goes on beyond the ends of them while these are the best.
    """
    first = _from_the_middle(rates or way.rates)
    arms = [Arm(way, lr, choice, number) for lr in first for number, choice in enumerate(choices, 1)]
    found = Found(way)
    yield from _train(arms, RUNGS[0], recipe, found)
    if rates is None:
        for _ in range(MOST_ADDED):
            added = list(_beyond(found, recipe.mode))
            if not added:
                break
            yield from _train(added, RUNGS[0], recipe, found)
    left = dict(found.arms)
    for share in RUNGS[1:]:
        best = kept({arm.name: report.score for arm, report in left.items() if report.error is None}, recipe.mode)
        # the configuration as it was given is what all else is compared with
        left = {arm: report for arm, report in left.items() if arm.name in best or (arm.is_given and not report.error)}
        yield from _train(list(left), share, recipe, found)
        left = {arm: found.arms[arm] for arm in left if found.arms[arm].error is None}
    found.best = _best(found, recipe.mode)
    if found.best is not None:
        tried = [
            arm.lr
            for arm, report in found.arms.items()
            if arm.number == found.best.number and (report.score is not None or report.error is not None)
        ]
        found.is_edge = found.best.lr in (min(tried), max(tried)) and len(tried) > 1
    return found


def _from_the_middle(rates: Sequence[float]) -> list[float]:
    """Return rates with the middle one first: a small budget may end behind it."""
    middle = (len(rates) - 1) / 2
    return [rate for _, rate in sorted(enumerate(rates), key=lambda pair: abs(pair[0] - middle))]


def _train(arms: Sequence[Arm], share: float, recipe: Recipe, found: Found) -> Generator[list[Job], Reports, None]:
    """Train arms up to a share, and note what they came to."""
    jobs = {arm: recipe.job(arm, share) for arm in arms}
    reports = yield list(jobs.values())
    for arm, job in jobs.items():
        found.arms[arm] = reports.get(job.name, found.arms.get(arm, Report()))
        if not found.arms[arm].answers(job):
            found.is_whole = False


def _beyond(found: Found, mode: Mode) -> Iterator[Arm]:
    """Yield, for each choice of the grid, the rate beyond the best one, if that is at an end of those tried."""
    sign = 1 if mode == "max" else -1
    for number in sorted({arm.number for arm in found.arms}):
        scores = {arm: report.score for arm, report in found.arms.items() if arm.number == number}
        known = {arm: sign * score for arm, score in scores.items() if score is not None and math.isfinite(score)}
        if not known or any(found.arms[arm].reached == 0 and found.arms[arm].error is None for arm in scores):
            continue
        best = max(known, key=lambda arm: known[arm])
        rates = [arm.lr for arm in scores]
        for end, factor in ((min(rates), 1 / STEP), (max(rates), STEP)):
            lr = round_rate(best.lr * factor)
            if best.lr == end and LOWEST <= lr <= HIGHEST:
                yield Arm(best.way, lr, best.choice, number)


def _best(found: Found, mode: Mode) -> Arm | None:
    sign = 1 if mode == "max" else -1
    known = [
        (round(report.reached, 2), sign * report.score, arm)
        for arm, report in found.arms.items()
        if report.score is not None and math.isfinite(report.score) and report.error is None
    ]
    return max(known, key=lambda entry: entry[:2])[2] if known else None


def measure(
    arm: Arm, folds: Sequence[Mapping[str, Any]], recipe: Recipe
) -> Generator[list[Job], Reports, list[Report]]:
    """Train an arm once for each fold.

    Args:
        arm: The arm.
        folds: Changes of the configuration that make each, with its seed.
        recipe: Makes the jobs.

    Returns:
        The reports of the trainings that came to their end.
    """
    jobs = [recipe.fold_job(arm, fold, number) for number, fold in enumerate(folds, 1)]
    reports = yield jobs
    return [reports[job.name] for job in jobs if job.name in reports]
