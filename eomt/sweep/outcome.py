"""What a sweep came to, in numbers and words."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as students_t

from eomt.sweep.jobs import Report
from eomt.sweep.search import Arm, Found, Mode
from eomt.sweep.ways import rate_text
from eomt.utils.tables import size_text

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over folds or seeds.

    Attributes:
        mean: The mean; NaN of nothing.
        half_width: Half of its 95 % interval, by Student's t; NaN of fewer than two values.
        count: Number of values.
    """

    mean: float
    half_width: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Return the mean of some values."""
        count = len(values)
        if count < 2:
            return cls(values[0] if values else math.nan, math.nan, count)
        factor = float(students_t.ppf((1 + CONFIDENCE) / 2, count - 1))
        return cls(statistics.mean(values), factor * statistics.stdev(values) / math.sqrt(count), count)

    @property
    def text(self) -> str:
        """The estimate for people."""
        if not self.count:
            return "-"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.half_width) else f" +- {self.half_width:.3f}")


@dataclass
class Row:
    """One way at its best rate, or the configuration as it was given.

    Attributes:
        arm: The way and its rate.
        searched: Report of its training on the split of the data.
        folds: Reports of its trainings on the folds, or with the seeds, by their number.
        is_edge: Whether its rate is at an end of those that were tried.
    """

    arm: Arm
    searched: Report
    folds: dict[int, Report] = field(default_factory=dict)
    is_edge: bool = False

    @property
    def scores(self) -> dict[int, float]:
        """Score of each fold that was trained to its end."""
        return {
            number: report.score
            for number, report in self.folds.items()
            if report.score is not None and report.error is None and report.reached >= 1
        }

    @property
    def estimate(self) -> Estimate:
        """Mean over the folds."""
        return Estimate.of(list(self.scores.values()))

    @property
    def value(self) -> float:
        """Mean over the folds; without any, the score of the search."""
        if self.scores:
            return self.estimate.mean
        score = self.searched.score
        return math.nan if score is None else score

    @property
    def is_whole(self) -> bool:
        """Whether its value is of trainings that came to their end."""
        return bool(self.scores) or self.searched.reached >= 1

    @property
    def seconds(self) -> float:
        """Seconds of a whole training."""
        whole = [report.seconds for report in (self.searched, *self.folds.values()) if report.reached >= 1]
        return statistics.mean(whole) if whole else math.nan

    @property
    def memory(self) -> int:
        """Bytes of the largest training."""
        return max(report.memory for report in (self.searched, *self.folds.values()))

    @property
    def title(self) -> str:
        """Way and rate, for people."""
        return f"{self.arm.title} at {rate_text(self.arm.lr)}"


@dataclass
class Outcome:
    """All that a sweep found.

    Attributes:
        metric: The metric.
        mode: Whether its best value is the highest or the lowest.
        rows: The ways, the best first.
        found: The search of each way.
        left_out: Ways that the network does not allow, and why.
        folds_are_splits: Whether each fold is another split; else they are seeds.
    """

    metric: str
    mode: Mode
    rows: list[Row]
    found: list[Found]
    left_out: list[str]
    folds_are_splits: bool

    @property
    def winner(self) -> Row | None:
        """The best row."""
        return self.rows[0] if self.rows else None

    @property
    def given(self) -> Row | None:
        """The configuration as it was given."""
        return next((row for row in self.rows if row.arm.is_given), None)

    @property
    def baseline(self) -> float | None:
        """The metric at step 0 of the winner's training on the split of the data."""
        return None if self.winner is None else self.winner.searched.baseline

    def sort(self) -> None:
        """Put the best row first, of equal ones that with the fewest parameters; those without a whole training last.

        A row that lacks folds, for want of budget or since they failed, counts as if it had them, see `as_if_whole`.
        One without any counts with its search: else what is cheap enough for all of its folds would win against what
        is better.
        """
        sign = -1 if self.mode == "max" else 1
        values = as_if_whole([row.scores for row in self.rows])

        def place(number: int) -> tuple[bool, bool, float, int]:
            row, value = self.rows[number], values[number]
            # rounded, or least squares would tell equal ones apart
            value = round(row.value if value is None else value, 9)
            return not row.is_whole, math.isnan(value), sign * value, row.searched.trained or 0

        self.rows[:] = [self.rows[number] for number in sorted(range(len(self.rows)), key=place)]

    @property
    def unit(self) -> str:
        """What the estimates are means over."""
        return "folds" if self.folds_are_splits else "seeds"

    def table(self) -> list[list[str]]:
        """Return heads and rows of the table."""
        rows = [
            ["way", "lr", self.metric, self.unit, "searched", "trained", "file", "seconds", "memory", "note"],
        ]
        for row in self.rows:
            searched = row.searched
            notes = ["as configured"] if row.arm.is_given else []
            notes += ["rate at an end of those tried"] if row.is_edge else []
            if failed := [str(number) for number, report in row.folds.items() if report.error is not None]:
                notes.append(f"failed in {self.unit.removesuffix('s')} {', '.join(failed)}")
            notes += [f"search ended at {searched.reached:.0%}"] if searched.reached < 1 else []
            rows.append(
                [
                    row.arm.title,
                    rate_text(row.arm.lr),
                    row.estimate.text,
                    str(row.estimate.count),
                    "-" if searched.score is None else f"{searched.score:.3f}",
                    "-" if searched.trained is None else f"{searched.trained:,}",
                    "-" if searched.file_bytes is None else size_text(searched.file_bytes),
                    "-" if math.isnan(row.seconds) else f"{row.seconds:.0f}",
                    f"{row.memory / 2**20:,.0f} MiB",
                    "; ".join(notes),
                ]
            )
        return rows

    def verdict(self) -> str:
        """Return the outcome in a sentence or two."""
        winner = self.winner
        if winner is None:
            return "No training came to a score."
        words = [f"{winner.title}: {self.metric} {_shown(winner)}"]
        for row in self.rows[1:]:
            if row.arm.way.name == winner.arm.way.name:
                continue
            words.append(f"{row.arm.title} {_shown(row)}{_file_ratio(row, winner)}")
        text = "; ".join(words) + "."
        rival = next((row for row in self.rows[1:] if row.scores), None)
        if rival is not None and winner.scores:
            difference = paired(winner, rival)
            if difference.count >= 2 and not abs(difference.mean) > difference.half_width:
                text += (
                    f" The difference to {rival.title}, {difference.text} over {difference.count} {self.unit}, is "
                    "within the noise."
                )
        return text


def as_if_whole(rows: Sequence[Mapping[int, float]]) -> list[float | None]:
    """Return the mean of each row over all folds, those that it lacks too; None for a row without any.

    Some folds are harder than others, and a mean over the easy ones is no result. A score is taken as the sum of what
    its row and its fold give, by least squares; where no score is missing this is the mean.

    Args:
        rows: Scores of each row by the number of the fold.
    """
    places = [(place, fold, score) for place, scores in enumerate(rows) for fold, score in scores.items()]
    folds = sorted({fold for _, fold, _ in places})
    design = np.zeros((len(places), len(rows) + len(folds)))
    for number, (place, fold, _) in enumerate(places):
        design[number, [place, len(rows) + folds.index(fold)]] = 1
    parts = np.linalg.lstsq(design, np.array([score for *_, score in places]), rcond=None)[0]
    whole = parts[: len(rows)] + (parts[len(rows) :].mean() if folds else 0.0)
    return [float(value) if scores else None for value, scores in zip(whole, rows, strict=True)]


def paired(first: Row, second: Row) -> Estimate:
    """Return the mean difference of two rows over the folds that both have."""
    common = sorted(first.scores.keys() & second.scores.keys())
    return Estimate.of([first.scores[number] - second.scores[number] for number in common])


def _shown(row: Row) -> str:
    return row.estimate.text if row.scores else f"{row.value:.3f} (of the search alone)"


def _file_ratio(row: Row, winner: Row) -> str:
    ours, theirs = winner.searched.file_bytes, row.searched.file_bytes
    if not ours or not theirs:
        return ""
    ratio = theirs / ours
    if ratio >= 1.5:
        return f" at {ratio:.0f} times the file"
    return f" at 1/{1 / ratio:.0f} of the file" if ratio <= 1 / 1.5 else ""
