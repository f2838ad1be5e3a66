"""Metrics of face morph detection, per attack and data set, that do not depend on batches or processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from eomt.errors import UserError
from eomt.metrics.error_rates import (
    OPERATING_POINTS,
    curve_figures,
    distinct_scores,
    error_counts,
    figures_at_threshold,
    threshold_at_eer,
    threshold_at_macer,
    threshold_chooser,
)
from eomt.metrics.row_metric import RowMetric
from eomt.metrics.statistics import NUM_RESAMPLES, TAIL, with_exact_limits

# how many numbers a resample may hold at once
CHUNK = 2_000_000
CURVE_FIGURES = (
    "eer",
    "auroc",
    *(f"bscer_at_macer_{percent}" for percent in OPERATING_POINTS),
    *(f"macer_at_bscer_{percent}" for percent in OPERATING_POINTS),
)
THRESHOLD_FIGURES = ("accuracy", "f1", "macer", "bscer")
HIGHER_IS_BETTER = ("auroc", "accuracy", "f1")


class FaceScore(NamedTuple):
    """An image, whether it is a morph, and the probability of that."""

    dataset: str
    name: str
    attack: str  # "" for bona fide
    label: int
    score: float


@dataclass(frozen=True)
class MorphScores:
    """Everything that was evaluated, each image once, in an order of its own.

    Args:
        scores: Probabilities of a morph, float64 `(N,)`.
        labels: int64 `(N,)`, 1 = morph.
        attacks: Names `(N,)`, "" for bona fide.
        datasets: Names `(N,)`.
    """

    scores: np.ndarray
    labels: np.ndarray
    attacks: np.ndarray
    datasets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[FaceScore]) -> "MorphScores":
        """Make columns of rows."""
        return cls(
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([row.label for row in rows], dtype=np.int64),
            np.array([row.attack for row in rows], dtype=object),
            np.array([row.dataset for row in rows], dtype=object),
        )

    def part(self, chosen: np.ndarray) -> "MorphScores":
        """Return the images where `chosen` (N,) is true."""
        return MorphScores(self.scores[chosen], self.labels[chosen], self.attacks[chosen], self.datasets[chosen])

    @property
    def has_both_classes(self) -> bool:
        """Whether there are bona fide images and morphs."""
        return set(self.labels.tolist()) == {0, 1}

    def groups(self) -> "dict[tuple[str, str], MorphScores]":
        """Return the parts by data set and attack: with "" all of a data set, else its bona fide and that attack."""
        groups = {}
        for dataset in sorted(set(self.datasets.tolist())):
            of_dataset = self.part(self.datasets == dataset)
            groups[dataset, ""] = of_dataset
            for attack in sorted(set(of_dataset.attacks[of_dataset.labels == 1].tolist())):
                chosen = (of_dataset.labels == 0) | (of_dataset.attacks == attack)
                groups[dataset, attack] = of_dataset.part(chosen)
        return groups


class MorphMetric(RowMetric[FaceScore]):
    """Error rates of morph detection; see `eomt.metrics.error_rates` for their definitions.

    An image given twice counts once, and an image without a name (one that only fills up the last step of a process)
    not at all. Figures are the same for 1 or 2 processes, in any order, to the last digit.
    """

    def __init__(self, threshold: float | None = None, seed: int = 0, threshold_at: str = "eer") -> None:
        """Set up the metric.

        Args:
            threshold: At which accuracy, F1, MACER and BSCER are measured: one that was chosen on other images; it may
                be set later. None for one that the images themselves choose, as in validation.
            seed: Of the bootstrap.
            threshold_at: The operating point at which they choose it, see `threshold_chooser`.

        Raises:
            UserError: There is no such operating point.
        """
        super().__init__()
        self.threshold = threshold
        self.seed = seed
        self.choose_threshold = threshold_chooser(threshold_at)

    @staticmethod
    def key(row: FaceScore) -> tuple[str, str]:
        """Return data set and name."""
        return row.dataset, row.name

    def update(
        self, scores: Tensor, labels: Tensor, attacks: Sequence[str], datasets: Sequence[str], names: Sequence[str]
    ) -> None:
        """Take in a batch.

        Args:
            scores: Probabilities of a morph, `(B,)`, in [0, 1].
            labels: `(B,)`, 1 = morph, 0 = bona fide.
            attacks: B names of attacks; not looked at where the label is 0.
            datasets: B names of data sets.
            names: B names of images, each once in its data set; images without one are not counted.

        Raises:
            UserError: A score is no probability.
        """
        assert scores.ndim == 1
        assert len(scores) == len(labels) == len(attacks) == len(datasets) == len(names)
        outside = ~((scores >= 0) & (scores <= 1))
        if outside.any():
            raise UserError(
                f"scores: {scores[outside][0].item():.4g}; must be probabilities from 0 to 1, as of a sigmoid; "
                "nan comes from a training that diverged: take a smaller lr"
            )
        columns = (datasets, names, attacks, labels.tolist(), scores.tolist())
        for dataset, name, attack, label, score in zip(*columns, strict=True):
            assert label in (0, 1), label
            if name:
                self.rows.append(FaceScore(dataset, name, attack if label else "", label, score))

    def compute(self) -> dict[str, float]:
        """Return the figures of everything counted so far, in all processes.

        Returns:
            With the name of a part behind, `eer/<data set>`, and `eer/<data set>/<attack>` against all bona fide images
            of the data set: `eer`, `auroc`, `bscer_at_macer_<x>` and `macer_at_bscer_<x>` for x of 1, 5, 10, 20
            percent, each with `_low` and `_high`, the 95 % interval by percentiles of as many bona fide images and as
            many morphs drawn with replacement, with exact limits where the figure is 0 or 1
            (`statistics.with_exact_limits`); `accuracy`, `f1`, `macer`, `bscer` at `threshold`; `n_bonafide` and
            `n_morph`.

            Without a name: the mean over the data sets with both classes, in all but the two numbers, and under
            `<figure>_worst_set` that of the worst one. Scores of different sets are never compared with each other:
            where the levels of two sets differ, a pooled EER is high though each is told apart without an error.

            Over attacks, `<figure>_average` and `<figure>_worst`, of all data sets and, with `/<data set>` behind, of
            one.

            `threshold` itself.

            `threshold_at_eer` and `threshold_at_macer_5`: thresholds that these images would choose.

            Every name with macer or bscer once more with apcer or bpcer in its place.

            nan where there are no morphs or no bona fide images.
        """
        everything = MorphScores.of(self.collected())
        figures = self._chosen_thresholds(everything)
        figures |= figures_of(everything, figures["threshold"], self.seed)
        figures |= {_alias(name): value for name, value in figures.items()}
        return {name: float(value) for name, value in figures.items()}

    def _chosen_thresholds(self, everything: MorphScores) -> dict[str, float]:
        scores, labels = everything.scores, everything.labels
        known = everything.has_both_classes
        own = self.choose_threshold(scores, labels) if known else np.nan
        return {
            "threshold": own if self.threshold is None else self.threshold,
            "threshold_at_eer": threshold_at_eer(scores, labels) if known else np.nan,
            "threshold_at_macer_5": threshold_at_macer(scores, labels, 0.05) if known else np.nan,
        }


@dataclass(frozen=True)
class PartFigures:
    """The figures of some images.

    Args:
        figures: Those of `CURVE_FIGURES`, with `_low` and `_high`, and of `THRESHOLD_FIGURES`; nan where a class is
            missing or there is no threshold.
        resamples: Those of `CURVE_FIGURES` in each resample, `(NUM_RESAMPLES,)`; none where a class is missing.
        cases: Of how many independent cases each of them is an error rate, at most.
    """

    figures: dict[str, float]
    resamples: dict[str, np.ndarray]
    cases: dict[str, int]

    @classmethod
    def of(cls, part: MorphScores, threshold: float, generator: np.random.Generator) -> "PartFigures":
        """Measure images.

        Args:
            part: The images.
            threshold: Of the figures that need one; may be nan.
            generator: Of the bootstrap.
        """
        figures = dict(_UNKNOWN)
        if not np.isnan(threshold):
            figures |= figures_at_threshold(part.scores, part.labels, threshold)
        if not part.has_both_classes:
            return cls(figures, {}, {})
        cases = {name: _cases(name, part.labels) for name in CURVE_FIGURES}
        values, resamples = _resampled_figures(part.scores, part.labels, generator)
        return cls(figures | with_intervals(values, resamples, cases), resamples, cases)


def figures_of(everything: MorphScores, threshold: float, seed: int) -> dict[str, float]:
    """Return the figures of images and of their parts, by the names that `MorphMetric.compute` describes.

    Args:
        everything: The images, each once.
        threshold: Of the figures that need one; may be nan.
        seed: Of the bootstrap.
    """
    figures: dict[str, float] = {}
    of_sets: list[PartFigures] = []
    of_attacks: dict[str, list[dict[str, float]]] = {}
    for (dataset, attack), part in everything.groups().items():
        found = PartFigures.of(part, threshold, np.random.default_rng(seed))
        suffix = f"/{dataset}/{attack}" if attack else f"/{dataset}"
        figures |= {f"{name}{suffix}": value for name, value in (found.figures | _numbers(part)).items()}
        of_dataset = of_attacks.setdefault(dataset, [])
        if attack:
            of_dataset.append(found.figures)
        elif part.has_both_classes:
            of_sets.append(found)
    figures |= over_sets(of_sets) | _numbers(everything)
    figures |= _over_attacks([found for of_dataset in of_attacks.values() for found in of_dataset], "")
    for dataset, of_dataset in of_attacks.items():
        figures |= _over_attacks(of_dataset, f"/{dataset}")
    return figures


def over_sets(parts: Sequence[PartFigures]) -> dict[str, float]:
    """Return the mean of each figure over data sets, with intervals, and under `<figure>_worst_set` the worst."""
    found = [part.figures for part in parts] or [_UNKNOWN]
    names = CURVE_FIGURES + THRESHOLD_FIGURES
    figures = _UNKNOWN | {name: float(np.mean([of_set[name] for of_set in found])) for name in names}
    if parts:
        # sets of one size were drawn alike; in another order each, they are resampled independently
        orders = [np.random.default_rng(place).permutation(NUM_RESAMPLES) for place in range(len(parts))]
        resamples = {
            name: np.mean([part.resamples[name][order] for part, order in zip(parts, orders, strict=True)], axis=0)
            for name in CURVE_FIGURES
        }
        # where all are 0 or all are 1, their mean is as sure as the smallest set at least
        cases = {name: min(part.cases[name] for part in parts) for name in CURVE_FIGURES}
        figures |= with_intervals({name: figures[name] for name in CURVE_FIGURES}, resamples, cases)
    return figures | {f"{name}_worst_set": _worst(name, found) for name in names}


# nan where there is nothing to measure
_UNKNOWN = dict.fromkeys(
    [*(f"{name}{end}" for name in CURVE_FIGURES for end in ("", "_low", "_high")), *THRESHOLD_FIGURES], np.nan
)


def _numbers(part: MorphScores) -> dict[str, float]:
    return {"n_bonafide": int((part.labels == 0).sum()), "n_morph": int((part.labels == 1).sum())}


def with_intervals(
    values: dict[str, float], resamples: dict[str, np.ndarray], cases: dict[str, int]
) -> dict[str, float]:
    """Return figures, and under `_low` and `_high` their 95 % intervals.

    They are percentiles of a bootstrap, with exact limits where the figure is 0 or 1.

    Args:
        values: The figures.
        resamples: Their values in each resample, `(NUM_RESAMPLES,)`.
        cases: Of how many independent cases each is an error rate.
    """
    figures = dict(values)
    for name, value in values.items():
        low, high = np.percentile(resamples[name], [TAIL, 100 - TAIL])
        low, high = with_exact_limits(value, (float(low), float(high)), cases[name])
        figures |= {f"{name}_low": low, f"{name}_high": high}
    return figures


def _resampled_figures(
    scores: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the figures of `curve_figures` of images, and those of images drawn anew, `(NUM_RESAMPLES,)`."""
    values, morph, bona_fide = distinct_scores(scores, labels)
    figures = {name: float(value[0]) for name, value in curve_figures(error_counts(morph, bona_fide)).items()}
    rows = max(1, CHUNK // max(len(values), len(scores)))
    parts = []
    for start in range(0, NUM_RESAMPLES, rows):
        number = min(rows, NUM_RESAMPLES - start)
        drawn = [_resample(counts[0], number, generator) for counts in (morph, bona_fide)]
        parts.append(curve_figures(error_counts(drawn[0], drawn[1])))
    return figures, {name: np.concatenate([part[name] for part in parts]) for name in CURVE_FIGURES}


def _cases(name: str, labels: np.ndarray) -> int:
    """Return how many independent cases a figure rests on where it is 0 or 1: images of a class, or pairs of both."""
    num_morph, num_bona_fide = int((labels == 1).sum()), int((labels == 0).sum())
    if name.startswith("bscer"):
        return num_bona_fide
    return num_morph if name.startswith("macer") else min(num_morph, num_bona_fide)


def _resample(counts: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return how many images have each score `(number, K)` if as many as there are, `(K,)`, are drawn anew."""
    places = np.repeat(np.arange(len(counts)), counts)
    drawn = places[generator.integers(len(places), size=(number, len(places)))]
    cells = drawn + len(counts) * np.arange(number)[:, None]
    return np.bincount(cells.ravel(), minlength=number * len(counts)).reshape(number, len(counts))


def _over_attacks(of_attacks: list[dict[str, float]], suffix: str) -> dict[str, float]:
    """Return each figure's mean over attacks, and that of the attack where it is worst; nan without attacks."""
    figures: dict[str, float] = {}
    for name in CURVE_FIGURES + THRESHOLD_FIGURES:
        mean = float(np.mean([found[name] for found in of_attacks or [_UNKNOWN]]))
        figures |= {f"{name}_average{suffix}": mean, f"{name}_worst{suffix}": _worst(name, of_attacks or [_UNKNOWN])}
    return figures


def _worst(name: str, parts: list[dict[str, float]]) -> float:
    values = [found[name] for found in parts]
    return min(values) if name in HIGHER_IS_BETTER else max(values)


def _alias(name: str) -> str:
    """Return a figure's name in the words of ISO/IEC 30107-3; only the figure's part is changed."""
    figure, slash, part = name.partition("/")
    return figure.replace("macer", "apcer").replace("bscer", "bpcer") + slash + part
