"""Error rates of a detector over all thresholds, after ISO/IEC 20059:2025.

A score is the probability of a morph; from a threshold on (`score >= threshold`) an image is called one. MACER is the
share of morphs that are accepted as bona fide, BSCER the share of bona fide images that are rejected; ISO/IEC 30107-3
calls the like APCER and BPCER. With a rising threshold MACER rises and BSCER falls.

Papers differ in how they read off an operating point. Here "BSCER at MACER <= x" is the smallest BSCER of all
thresholds whose MACER is at most x, and the other way round; nothing is interpolated, and the nearest point of the
curve, which may lie above x, is never taken. The D-EER is the mean of both rates at the threshold where they differ
least (of several, where the mean is least).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eomt.errors import UserError, shortened

OPERATING_POINTS = (1, 5, 10, 20)
"""Limits in percent at which the other error rate is reported."""


@dataclass(frozen=True)
class ErrorCounts:
    """What happens at each of K + 1 thresholds: the K distinct scores in rising order, and one above all of them.

    The first axis, R, is for resamples of the same images.

    Args:
        accepted: Morphs below the threshold, int64 `(R, K + 1)`.
        rejected: Bona fide images at or above it, int64 `(R, K + 1)`.
        num_morph: Morphs in all.
        num_bona_fide: Bona fide images in all.
    """

    accepted: np.ndarray
    rejected: np.ndarray
    num_morph: int
    num_bona_fide: int

    @property
    def macer(self) -> np.ndarray:
        """Morphs accepted, `(R, K + 1)` in [0, 1]."""
        return np.asarray(self.accepted / self.num_morph)

    @property
    def bscer(self) -> np.ndarray:
        """Bona fide images rejected, `(R, K + 1)` in [0, 1]."""
        return np.asarray(self.rejected / self.num_bona_fide)


def error_counts(morph: np.ndarray, bona_fide: np.ndarray) -> ErrorCounts:
    """Count errors at every threshold.

    Args:
        morph: How many morphs have each of K scores, in rising order, int64 `(R, K)`; rows have equal sums.
        bona_fide: The same of bona fide images.
    """
    below = [np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0))) for counts in (morph, bona_fide)]
    num_morph, num_bona_fide = int(below[0][0, -1]), int(below[1][0, -1])
    return ErrorCounts(below[0], num_bona_fide - below[1], num_morph, num_bona_fide)


def distinct_scores(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the K distinct scores `(K,)` in rising order, and the numbers of morphs and bona fide with each, `(1, K)`.

    Args:
        scores: `(N,)`.
        labels: `(N,)`, 1 = morph.
    """
    values, places = np.unique(scores, return_inverse=True)
    morph, bona_fide = (np.bincount(places[labels == label], minlength=len(values))[None] for label in (1, 0))
    return values, morph, bona_fide


def curve_figures(counts: ErrorCounts) -> dict[str, np.ndarray]:
    """Return the figures that need no threshold, each `(R,)` in [0, 1].

    `eer`; `auroc`, the share of pairs in which the morph has the higher score, ties counting half;
    `bscer_at_macer_<x>` and `macer_at_bscer_<x>` for x of 1, 5, 10 and 20 percent.
    """
    rows = np.arange(len(counts.accepted))
    # in whole numbers, or rounding would decide which of two equal differences is less
    macer, bscer = counts.accepted * counts.num_bona_fide, counts.rejected * counts.num_morph
    pairs = counts.num_morph * counts.num_bona_fide
    best = _least_difference(macer, bscer)
    figures = {"eer": (macer + bscer)[rows, best] / (2 * pairs)}
    # the area below the curve of 1 - MACER over BSCER, by trapezoids
    height = (counts.num_morph - counts.accepted[:, :-1]) + (counts.num_morph - counts.accepted[:, 1:])
    figures["auroc"] = (height * -np.diff(counts.rejected, axis=1)).sum(axis=1) / (2 * pairs)
    for percent in OPERATING_POINTS:
        # a quotient of whole numbers is rounded like the limit, so that equality is exact
        last = (counts.macer <= percent / 100).sum(axis=1) - 1
        figures[f"bscer_at_macer_{percent}"] = counts.bscer[rows, last]
    for percent in OPERATING_POINTS:
        first = (counts.bscer <= percent / 100).argmax(axis=1)
        figures[f"macer_at_bscer_{percent}"] = counts.macer[rows, first]
    return figures


def _least_difference(macer: np.ndarray, bscer: np.ndarray) -> np.ndarray:
    """Return the place `(R,)` where whole numbers `(R, K + 1)` differ least; of several, where their sum is least."""
    difference = np.abs(macer - bscer)
    least = difference == difference.min(axis=1, keepdims=True)
    return np.where(least, macer + bscer, np.iinfo(np.int64).max).argmin(axis=1)


def error_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds, MACER and BSCER, each `(K + 1,)`; the last threshold is infinite.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; both classes must occur.
    """
    values, morph, bona_fide = distinct_scores(scores, labels)
    counts = error_counts(morph, bona_fide)
    return np.append(values, np.inf), counts.macer[0], counts.bscer[0]


def threshold_at_eer(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold of the equal error rate, halfway to the next score below, which decides alike.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; both classes must occur.
    """
    values, morph, bona_fide = distinct_scores(scores, labels)
    counts = error_counts(morph, bona_fide)
    macer, bscer = counts.accepted * counts.num_bona_fide, counts.rejected * counts.num_morph
    return _between(values, int(_least_difference(macer, bscer)[0]))


def threshold_at_macer(scores: np.ndarray, labels: np.ndarray, macer: float = 0.05) -> float:
    """Return the threshold of the smallest BSCER with a MACER of at most `macer`, halfway to the next score below.

    Of thresholds with that BSCER it is the lowest, which accepts fewest morphs.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; both classes must occur.
        macer: Limit, in [0, 1].
    """
    values, morph, bona_fide = distinct_scores(scores, labels)
    counts = error_counts(morph, bona_fide)
    last = int((counts.macer[0] <= macer).sum()) - 1
    return _between(values, int((counts.rejected[0] == counts.rejected[0, last]).argmax()))


def threshold_at_bscer(scores: np.ndarray, labels: np.ndarray, bscer: float = 0.05) -> float:
    """Return the threshold of the smallest MACER with a BSCER of at most `bscer`, halfway to the next score below.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; both classes must occur.
        bscer: Limit, in [0, 1].
    """
    values, morph, bona_fide = distinct_scores(scores, labels)
    counts = error_counts(morph, bona_fide)
    return _between(values, int((counts.bscer[0] <= bscer).argmax()))


def threshold_chooser(operating_point: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the function of scores and labels that chooses the threshold of an operating point.

    Args:
        operating_point: "eer"; or "macer X" or "bscer X", the smallest other rate with at most X percent of this one
            (also "apcer X" and "bpcer X").

    Raises:
        UserError: It is none of these.
    """
    rate, _, percent = operating_point.replace("apcer", "macer").replace("bpcer", "bscer").partition(" ")
    if operating_point == "eer":
        return threshold_at_eer
    try:
        limit = float(percent) / 100
    except ValueError:
        limit = -1.0
    if rate not in ("macer", "bscer") or not 0 <= limit < 1:
        raise UserError(
            f"threshold_at: {shortened(operating_point)!r}; must be eer, or a rate and its limit in percent, "
            "as macer 5 or bscer 1"
        )
    at = threshold_at_macer if rate == "macer" else threshold_at_bscer
    return lambda scores, labels: at(scores, labels, limit)


def _between(values: np.ndarray, place: int) -> float:
    """Return a number in (values[place - 1], values[place]]: a finite one, and no score unless it is the first."""
    if place == len(values):
        return float(np.nextafter(values[-1], np.inf))
    return float(values[place] if place == 0 else (values[place - 1] + values[place]) / 2)


def figures_at_threshold(scores: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """Return `accuracy`, `f1` (of morphs), `macer` and `bscer` of calling `score >= threshold` a morph.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; a rate of a class that does not occur is nan.
        threshold: The threshold.
    """
    called, morph = scores >= threshold, labels == 1
    hits, misses, alarms = (int(part.sum()) for part in (called & morph, ~called & morph, called & ~morph))
    num_morph, num_bona_fide = int(morph.sum()), int((~morph).sum())
    return {
        "accuracy": 1 - (misses + alarms) / len(scores) if len(scores) else np.nan,
        "f1": 2 * hits / (2 * hits + misses + alarms) if num_morph else np.nan,
        "macer": misses / num_morph if num_morph else np.nan,
        "bscer": alarms / num_bona_fide if num_bona_fide else np.nan,
    }
