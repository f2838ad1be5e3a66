"""Lines over steps: where they lie, and numbers that are hard to draw."""

import math
import re

import pytest

from eomt.reports.charts import MOST_POINTS, Series, line_chart, nice_numbers, thinned


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.e+-]+) ([\d.e+-]+)", path)]


def test_points_lie_where_their_values_are() -> None:
    chart = line_chart("x", [Series("a", [(0, 1.0), (50, 2.0), (100, 3.0)])])
    assert chart is not None
    first, middle, last = places(chart.lines[0].path)
    assert (first[0], last[0]) == (chart.left, chart.right)
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2)
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2)
    # SVG counts downwards
    assert chart.top < last[1] < first[1] < chart.bottom
    ticks = {tick.text: tick.place for tick in chart.y_ticks}
    assert ticks["2"] == pytest.approx(middle[1])


@pytest.mark.parametrize(
    "values",
    [[0.5], [0.0], [-3.0], [1.0, 1.0], [1e308, -1e308], [1e-310, 2e-310], [1e300, 1e300], [5e-324], [1e15, 1e15 + 1]],
)
def test_every_finite_value_has_a_place_and_the_axis_numbers(values: list[float]) -> None:
    chart = line_chart("x", [Series("a", list(enumerate(values)))], [(0, values[0], "best")])
    assert chart is not None
    assert chart.y_ticks
    for x, y in [*chart.lines[0].dots, *[mark[:2] for mark in chart.marks]]:
        assert chart.left <= x <= chart.right
        assert chart.top <= y <= chart.bottom


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("x", [Series("a", [])]) is None


@pytest.mark.parametrize(
    ("low", "high", "most"), [(0, 60, 6), (0.27, 0.66, 5), (-1, 1, 5), (1e-9, 3e-9, 4), (0, 9e9, 5)]
)
def test_numbers_beside_an_axis_are_round_and_inside(low: float, high: float, most: int) -> None:
    found = nice_numbers(low, high, most)
    assert 2 <= len(found) <= most
    assert low - 1e-9 * abs(low) <= found[0]
    assert found[-1] <= high * (1 + 1e-9)
    width = found[1] - found[0]
    assert f"{width:e}".split("e")[0].rstrip("0").rstrip(".") in ("1", "2", "5")


def test_long_series_keep_ends_and_mean() -> None:
    points = [(step, math.sin(step / 50) + step % 2) for step in range(10_001)]
    short = thinned(points)
    assert len(short) <= MOST_POINTS
    assert (short[0], short[-1]) == (points[0], points[-1])
    mean = sum(value for _, value in points) / len(points)
    assert sum(value for _, value in short) / len(short) == pytest.approx(mean, abs=0.02)
