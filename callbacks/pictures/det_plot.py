"""Pictures of a detector's errors: the DET curve, and where the scores of both classes lie."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.stats import norm

from eomt.pictures.colors import INK, Color, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# pixels
WIDTH, HEIGHT = 900, 720
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 50, 80
# at so many dots per inch a point is a pixel
DPI = 72
GRID: Color = (222, 222, 222)
# percent; a rate of 0 has no place on a normal deviate scale and is drawn at the edge
LEAST, MOST = 0.1, 60.0
TICKS = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60)
NUM_BINS = 40


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
    ends, ticks = _deviates(np.array([LEAST, MOST])), _deviates(np.array(TICKS))
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in TICKS])
    axes.plot(ends, ends, color=_rgb(GRID), linewidth=2)
    for (name, (macer, bscer)), color in zip(curves.items(), palette(max(1, len(curves))), strict=False):
        shown = (macer <= MOST / 100) & (bscer <= MOST / 100)
        x, y = _deviates(100 * macer[shown]), _deviates(100 * bscer[shown])
        # before the frame, on which the curve of a good detector lies
        axes.plot(x, y, color=_rgb(color), linewidth=3, label=name, clip_on=False, zorder=3)
        if shown.any():
            equal = int(np.abs(macer[shown] - bscer[shown]).argmin())
            axes.plot(x[equal], y[equal], "o", color=_rgb(color), markersize=12, clip_on=False, zorder=3)
    return _drawn(axes)


def score_histograms(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Image.Image:
    """Draw how often each score occurs, per class, and the threshold as an upright line.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph.
        threshold: From which on an image is called a morph; nan draws no line.

    Returns:
        An RGB picture.
    """
    axes = _axes("Score (probability of a morph)", "Share of the class, %")
    edges = np.linspace(0, 1, NUM_BINS + 1)
    for label, (name, color) in enumerate(zip(("bona fide", "morph"), palette(2), strict=True)):
        counts = np.histogram(scores[labels == label], edges)[0]
        shares = 100 * counts / max(1, counts.sum())
        axes.stairs(shares, edges, color=_rgb(color), linewidth=3, label=f"{name} ({int((labels == label).sum())})")
    if not math.isnan(threshold):
        axes.axvline(threshold, color=_rgb(INK), linewidth=2)
    axes.set(xlim=(0, 1), ylim=(0, None))
    return _drawn(axes)


def _axes(right: str, upwards: str) -> "Axes":
    # without pyplot, which keeps every figure that it made
    from matplotlib.figure import Figure

    axes = Figure(dpi=DPI).add_axes((0, 0, 1, 1))
    axes.set_xlabel(right, fontsize=18)
    axes.set_title(upwards, fontsize=18, loc="left")
    axes.tick_params(labelsize=15)
    axes.grid(color=_rgb(GRID))
    axes.set_axisbelow(True)
    return axes


def _drawn(axes: "Axes") -> Image.Image:
    """Draw a plot of a fixed size, and its legend to the right, as no corner of it is sure to be free of curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    canvas, width = FigureCanvasAgg(figure), WIDTH
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False, fontsize=16)
        width += math.ceil(legend.get_window_extent(canvas.get_renderer()).width)
    figure.set_size_inches(width / DPI, HEIGHT / DPI)
    axes.set_position((LEFT / width, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / width, (HEIGHT - TOP - BOTTOM) / HEIGHT))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _rgb(color: Color) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _deviates(percent: np.ndarray) -> np.ndarray:
    """Return rates, `(N,)` in percent, on a normal deviate scale from `LEAST` to `MOST`."""
    return np.asarray(norm.ppf(np.clip(percent, LEAST, MOST) / 100))
