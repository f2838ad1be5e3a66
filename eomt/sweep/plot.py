"""Pictures of a sweep: scores over learning rates, each way at its best, and what more images bring."""

import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eomt.sweep.learning_curve import Curve
from eomt.sweep.outcome import Outcome
from eomt.utils.files import write_file

RESOLUTION = 120


def draw_sweep(outcome: Outcome, file: Path) -> None:
    """Write a picture: on the left each training of the search, on the right each way at its best."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    colors = {found.way.name: f"C{number}" for number, found in enumerate(outcome.found)}
    for found in outcome.found:
        arms = sorted(found.arms, key=lambda arm: (arm.number, arm.lr))
        for number in sorted({arm.number for arm in arms}):
            points = [
                (arm.lr, found.arms[arm].score, found.arms[arm].reached >= 1)
                for arm in arms
                if arm.number == number and found.arms[arm].score is not None
            ]
            color = colors[found.way.name]
            label = found.way.title if number == min(arm.number for arm in arms) else None
            left.plot([x for x, *_ in points], [y for _, y, _ in points], color=color, linewidth=1, label=label)
            for whole in (True, False):
                left.plot(
                    [x for x, _, done in points if done is whole],
                    [y for _, y, done in points if done is whole],
                    "o",
                    color=color,
                    fillstyle="full" if whole else "none",
                )
    left.set(xscale="log", xlabel="learning rate", ylabel=outcome.metric)
    left.set_title("search (open: given up early)", fontsize=10)
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    rows = outcome.rows[::-1]
    for place, row in enumerate(rows):
        color = colors[row.arm.way.name]
        right.plot(list(row.scores.values()), [place] * len(row.scores), "|", color=color, markersize=12)
        value = row.value
        half = row.estimate.half_width
        right.errorbar(value, place, xerr=None if math.isnan(half) else half, fmt="o", color=color, capsize=3)
    right.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=8)
    right.set_xlabel(outcome.metric)
    right.set_ylim(-0.6, len(rows) - 0.4)
    # at the right end: the names of the ways leave a narrow plot
    right.set_title(f"each way at its best: {outcome.unit}, mean and 95 % interval", fontsize=10, loc="right")
    right.grid(alpha=0.3, axis="x")
    _write(figure, file)


def draw_curve(curve: Curve, file: Path) -> None:
    """Write a picture of scores over numbers of training images, with what twice the images may bring."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for images, scores in curve.points.items():
        axes.plot([images] * len(scores), scores, "o", color="C0", alpha=0.5)
    means = curve.means
    axes.plot(list(means), list(means.values()), color="C0", label="mean")
    low, high = curve.gain_interval
    if not math.isnan(low):
        last = max(means)
        axes.fill_between(
            [last, 2 * last],
            [means[last], means[last] + low],
            [means[last], means[last] + high],
            alpha=0.3,
            label="expected",
        )
    axes.set(xscale="log", xlabel="training images", ylabel=curve.metric)
    axes.set_xticks([*means, 2 * max(means)], [str(images) for images in (*means, 2 * max(means))])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    _write(figure, file)


def _write(figure: Figure, file: Path) -> None:
    FigureCanvasAgg(figure)
    write_file(file, lambda path: figure.savefig(path, dpi=RESOLUTION, format="png"))
