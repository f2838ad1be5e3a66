"""Lines over steps, laid out for SVG: the templates only write down what is computed here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# in units of the drawing; a page shows it at this width, a phone at some two thirds of it
WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40
# points of a line; more are not seen
MOST_POINTS = 400
# of lines on a page; more begin again, dashed
COLORS = 8
# of values that are drawn: beyond these, sums and quotients of numbers are not finite
LEAST, MOST = 1e-200, 1e300

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Series:
    """Values over steps.

    Attributes:
        name: Of the line, in the legend.
        points: Step and finite value, steps rising.
        is_dashed: Whether it stands back, as a rival does.
    """

    name: str
    points: Points
    is_dashed: bool = False


@dataclass(frozen=True)
class Line:
    """A drawn series: `path` is an SVG path, `dots` are places of points without neighbors."""

    name: str
    color: int
    is_dashed: bool
    path: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A number beside an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """A drawn chart; `description` says in words what is seen."""

    title: str
    description: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[tuple[float, float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, series: Sequence[Series], marks: Sequence[tuple[int, float, str]] = ()) -> LineChart | None:
    """Lay out a chart; return None where there is nothing to draw.

    Args:
        title: Above it.
        series: Lines; those without points are left out.
        marks: Step, value and words of points that are marked by a ring.
    """
    drawn = [replace(one, points=[(step, _drawable(x)) for step, x in one.points]) for one in series if one.points]
    if not drawn:
        return None
    steps = [step for one in drawn for step, _ in one.points]
    values = [value for one in drawn for _, value in one.points]
    x_ends, y_ends = _ends(min(steps), max(steps), 0), _ends(min(values), max(values), 0.04)

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - x_ends[0]) / (x_ends[1] - x_ends[0])
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y_ends[0]) / (y_ends[1] - y_ends[0])
        return round(x, 1), round(y, 1)

    lines = []
    for number, one in enumerate(drawn):
        places = [place(step, value) for step, value in thinned(one.points)]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places) if len(places) > 1 else ""
        dashed = one.is_dashed or number >= COLORS
        lines.append(Line(one.name, number % COLORS, dashed, path, places if len(places) <= 12 else []))
    return LineChart(
        title,
        "; ".join(_in_words(one) for one in drawn[:COLORS]),
        lines,
        [Tick(place(x, y_ends[0])[0], _short(x)) for x in nice_numbers(*x_ends, 6) if x == int(x)],
        [Tick(place(x_ends[0], y)[1], _short(y)) for y in nice_numbers(*y_ends, 5)],
        [(*place(step, _drawable(value)), words) for step, value, words in marks],
    )


def thinned(points: Points) -> Points:
    """Return at most `MOST_POINTS` of a series: each one the mean of its neighbors, and the first and last as they are.

    Args:
        points: Step and value.
    """
    if len(points) <= MOST_POINTS:
        return points
    inner = points[1:-1]
    bucket = math.ceil(len(inner) / (MOST_POINTS - 2))
    means = []
    for start in range(0, len(inner), bucket):
        part = inner[start : start + bucket]
        means.append((part[len(part) // 2][0], math.fsum(value for _, value in part) / len(part)))
    return [points[0], *means, points[-1]]


def nice_numbers(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart, at most `most` of them."""
    exponent = math.floor(math.log10((high - low) / most)) if high > low else 0
    for power in range(exponent, exponent + 3):
        for factor in (1, 2, 5):
            width = factor * 10.0**power
            first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
            if last - first < most:
                numbers = range(first, last + 1)
                # a quotient, for products have more digits than the number meant
                return [number * factor / 10**-power if power < 0 else number * width for number in numbers]
    return []


def _ends(low: float, high: float, margin: float) -> tuple[float, float]:
    """Return the ends of an axis, which differ even where all values are the same."""
    width = high - low
    if width <= max(1e-9 * max(abs(low), abs(high)), LEAST):
        pad = max(abs(low), abs(high)) / 10 or 0.5
        return low - pad, high + pad
    return low - margin * width, high + margin * width


def _drawable(value: float) -> float:
    return min(max(value, -MOST), MOST)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def _in_words(series: Series) -> str:
    (first, start), (last, end) = series.points[0], series.points[-1]
    if first == last:
        return f"{series.name} is {start:.4g} at step {first}"
    return f"{series.name} goes from {start:.4g} at step {first} to {end:.4g} at step {last}"
