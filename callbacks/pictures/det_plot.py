"""Pictures of a detector's errors: the DET curve, and where the scores of both classes lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import norm

from callbacks.pictures.masks import INK, PAPER, Color, palette

WIDTH, HEIGHT = 900, 720
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 50, 80
GRID: Color = (222, 222, 222)
# percent; a rate of 0 has no place on a normal deviate scale and is drawn at the edge
LEAST, MOST = 0.1, 60.0
TICKS = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60)
NUM_BINS = 40
DOT = 6  # pixels


@dataclass(frozen=True)
class _Axes:
    """A picture with a frame, in which values from 0 to 1 are drawn."""

    picture: Image.Image
    draw: ImageDraw.ImageDraw

    def point(self, x: float, y: float) -> tuple[float, float]:
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def det_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Draw DET curves: MACER to the right, BSCER upwards, both in percent on a normal deviate scale, up to 60 %.

    A dot marks the equal error rate.

    Args:
        curves: MACER and BSCER in [0, 1] by the name of each curve, as `eomt.metrics.error_rates.error_curve` returns
            them.

    Returns:
        An RGB picture.
    """
    axes = _axes("MACER (morphs accepted), %", "BSCER (bona fide rejected), %")
    for tick in TICKS:
        place = float(_deviate(np.array([tick / 100]))[0])
        _grid_line(axes, place, f"{tick:g}", vertical=True)
        _grid_line(axes, place, f"{tick:g}", vertical=False)
    axes.draw.line([axes.point(0, 0), axes.point(1, 1)], GRID, 2)
    for (macer, bscer), color in zip(curves.values(), palette(max(1, len(curves))), strict=False):
        shown = (macer <= MOST / 100) & (bscer <= MOST / 100)
        deviates = zip(_deviate(macer[shown]).tolist(), _deviate(bscer[shown]).tolist(), strict=True)
        points = [axes.point(x, y) for x, y in deviates]
        axes.draw.line(points, color, 3, joint="curve")
        if points:
            equal = int(np.abs(macer[shown] - bscer[shown]).argmin())
            axes.draw.circle(points[equal], DOT, fill=color)
    return _with_legend(axes, list(curves), palette(max(1, len(curves))))


def score_histograms(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Image.Image:
    """Draw how often each score occurs, per class, and the threshold as an upright line.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph.
        threshold: From which on an image is called a morph.

    Returns:
        An RGB picture.
    """
    axes = _axes("Score (probability of a morph)", "Share of the class, %")
    edges = np.linspace(0, 1, NUM_BINS + 1)
    shares = {}
    for label, name in enumerate(("bona fide", "morph")):
        counts = np.histogram(scores[labels == label], edges)[0]
        shares[name] = counts / max(1, counts.sum())
    highest = max(0.05, *(float(share.max()) for share in shares.values()))
    for tick in np.linspace(0, 1, 6):
        _grid_line(axes, float(tick), f"{tick:.1f}", vertical=True)
        _grid_line(axes, float(tick), f"{100 * tick * highest:.1f}", vertical=False)
    colors = palette(2)
    for share, color in zip(shares.values(), colors, strict=True):
        tops = np.repeat(share / highest, 2)
        sides = np.repeat(edges, 2)[1:-1]
        outline = [(0.0, 0.0), *zip(sides.tolist(), tops.tolist(), strict=True), (1.0, 0.0)]
        axes.draw.line([axes.point(x, y) for x, y in outline], color, 3)
    axes.draw.line([axes.point(threshold, 0), axes.point(threshold, 1)], INK, 2)
    names = [f"{name} ({int((labels == label).sum())})" for label, name in enumerate(shares)]
    return _with_legend(axes, names, colors)


def _axes(right: str, upwards: str) -> _Axes:
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((WIDTH // 2, HEIGHT - 20), right, INK, ImageFont.load_default(18), anchor="mm")
    draw.text((LEFT, TOP // 2), upwards, INK, ImageFont.load_default(18), anchor="lm")
    return _Axes(picture, draw)


def _grid_line(axes: _Axes, place: float, text: str, vertical: bool) -> None:
    ends = [(place, 0.0), (place, 1.0)] if vertical else [(0.0, place), (1.0, place)]
    axes.draw.line([axes.point(*end) for end in ends], GRID, 1)
    x, y = axes.point(*ends[0])
    font = ImageFont.load_default(15)
    if vertical:
        axes.draw.text((x, y + 8), text, INK, font, anchor="mt")
    else:
        axes.draw.text((x - 8, y), text, INK, font, anchor="rm")


def _with_legend(axes: _Axes, names: Sequence[str], colors: Sequence[Color]) -> Image.Image:
    """The picture with a strip at its right, as no corner of the plot is sure to be free of curves."""
    font = ImageFont.load_default(16)
    longest = max((font.getlength(name) for name in names), default=0)
    picture = Image.new("RGB", (WIDTH + round(longest) + 50, HEIGHT), PAPER)
    picture.paste(axes.picture)
    draw = ImageDraw.Draw(picture)
    for row, (name, color) in enumerate(zip(names, colors, strict=False)):
        y = TOP + 8 + 24 * row
        draw.rectangle((WIDTH, y - 3, WIDTH + 22, y + 3), fill=color)
        draw.text((WIDTH + 30, y), name, INK, font, anchor="lm")
    return picture


def _deviate(rates: np.ndarray) -> np.ndarray:
    """Return rates on a normal deviate scale, 0 at `LEAST` percent and 1 at `MOST`."""
    low, high = norm.ppf(LEAST / 100), norm.ppf(MOST / 100)
    return np.asarray((norm.ppf(np.clip(rates, LEAST / 100, MOST / 100)) - low) / (high - low))
