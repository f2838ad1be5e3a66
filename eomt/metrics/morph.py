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

    def __init__(self, threshold: float | None = None, seed: int = 0) -> None:
        """Set up the metric.

        Args:
            threshold: At which accuracy, F1, MACER and BSCER are measured: one that was chosen on other images; it may
                be set later. None for that of the equal error rate of the images themselves, as in validation.
            seed: Of the bootstrap.
        """
        super().__init__()
        self.threshold = threshold
        self.seed = seed

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
            `eer`, `auroc`, `bscer_at_macer_<x>` and `macer_at_bscer_<x>` for x of 1, 5, 10, 20 percent, each with
            `_low` and `_high`, the 95 % interval by percentiles of as many bona fide images and as many morphs drawn
            with replacement, with exact limits where the figure is 0 or 1 (`statistics.with_exact_limits`); `accuracy`, `f1`,
            `macer`, `bscer` at `threshold`; `threshold` itself; `n_bonafide` and `n_morph`.

            The same of a part with its name behind: `eer/<data set>`, and `eer/<data set>/<attack>` against all bona
            fide images of the data set. Over these attacks, `<figure>_average` and `<figure>_worst`, of all data sets
            and, with `/<data set>` behind, of one.

            `threshold_at_eer` and `threshold_at_macer_5`: thresholds that these images would choose.

            Every name with macer or bscer once more with apcer or bpcer in its place.

            nan where there are no morphs or no bona fide images.
        """
        everything = MorphScores.of(self.collected())
        figures = self._chosen_thresholds(everything)
        threshold = figures["threshold"]
        figures |= self._part_figures(everything, threshold, "")
        of_attacks: dict[str, list[dict[str, float]]] = {}
        for (dataset, attack), part in everything.groups().items():
            suffix = f"/{dataset}/{attack}" if attack else f"/{dataset}"
            found = self._part_figures(part, threshold, suffix)
            figures |= found
            of_dataset = of_attacks.setdefault(dataset, [])
            if attack:
                of_dataset.append({name: found[f"{name}{suffix}"] for name in CURVE_FIGURES + THRESHOLD_FIGURES})
        figures |= _over_attacks([found for of_dataset in of_attacks.values() for found in of_dataset], "")
        for dataset, of_dataset in of_attacks.items():
            figures |= _over_attacks(of_dataset, f"/{dataset}")
        figures |= {_alias(name): value for name, value in figures.items()}
        return {name: float(value) for name, value in figures.items()}

    def _chosen_thresholds(self, everything: MorphScores) -> dict[str, float]:
        scores, labels = everything.scores, everything.labels
        known = everything.has_both_classes
        at_eer = threshold_at_eer(scores, labels) if known else np.nan
        return {
            "threshold": at_eer if self.threshold is None else self.threshold,
            "threshold_at_eer": at_eer,
            "threshold_at_macer_5": threshold_at_macer(scores, labels, 0.05) if known else np.nan,
        }

    def _part_figures(self, part: MorphScores, threshold: float, suffix: str) -> dict[str, float]:
        figures = dict.fromkeys([f"{name}{end}" for name in CURVE_FIGURES for end in ("", "_low", "_high")], np.nan)
        if part.has_both_classes:
            figures |= figures_with_intervals(part.scores, part.labels, self.seed)
        figures |= figures_at_threshold(part.scores, part.labels, threshold)
        if np.isnan(threshold):
            figures |= dict.fromkeys(THRESHOLD_FIGURES, np.nan)
        figures |= {"n_bonafide": int((part.labels == 0).sum()), "n_morph": int((part.labels == 1).sum())}
        return {f"{name}{suffix}": value for name, value in figures.items()}


def figures_with_intervals(scores: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Return the figures of `curve_figures`, and under `<figure>_low` and `<figure>_high` their 95 % intervals.

    They are percentiles of a bootstrap, with exact limits where the figure is 0 or 1.

    Args:
        scores: Probabilities of a morph, `(N,)`.
        labels: `(N,)`, 1 = morph; both classes must occur.
        seed: Of the bootstrap.
    """
    values, morph, bona_fide = distinct_scores(scores, labels)
    figures = {name: float(value[0]) for name, value in curve_figures(error_counts(morph, bona_fide)).items()}
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // max(len(values), len(scores)))
    parts = []
    for start in range(0, NUM_RESAMPLES, rows):
        number = min(rows, NUM_RESAMPLES - start)
        drawn = [_resample(counts[0], number, generator) for counts in (morph, bona_fide)]
        parts.append(curve_figures(error_counts(drawn[0], drawn[1])))
    for name in CURVE_FIGURES:
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), [TAIL, 100 - TAIL])
        low, high = with_exact_limits(figures[name], (float(low), float(high)), _cases(name, labels))
        figures |= {f"{name}_low": low, f"{name}_high": high}
    return figures


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
        values = [found[name] for found in of_attacks] or [np.nan]
        worst = min(values) if name in HIGHER_IS_BETTER else max(values)
        figures |= {f"{name}_average{suffix}": float(np.mean(values)), f"{name}_worst{suffix}": worst}
    return figures


def _alias(name: str) -> str:
    """Return a figure's name in the words of ISO/IEC 30107-3; only the figure's part is changed."""
    figure, slash, part = name.partition("/")
    return figure.replace("macer", "apcer").replace("bscer", "bpcer") + slash + part
