"""The metrics of morph detection against loops over thresholds, in any order, batch and number of processes."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_sensitivity_at_specificity,
    binary_specificity_at_sensitivity,
)

from eomt.errors import UserError
from eomt.metrics.error_rates import (
    OPERATING_POINTS,
    error_curve,
    figures_at_threshold,
    threshold_at_eer,
    threshold_at_macer,
)
from eomt.metrics.morph import NUM_RESAMPLES, MorphMetric, MorphScores, PartFigures
from tests.ranks import on_two_ranks

Row = tuple[float, int, str, str, str]  # score, label, attack, data set, name


def make_rows(seed: int = 0, number: int = 60, levels: int = 12) -> list[Row]:
    """Return images of two data sets with two attacks each; few levels make many ties."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        label = int(random.random() < 0.5)
        score = round(float(np.clip(random.normal(0.4 + 0.25 * label, 0.2), 0, 1)) * levels) / levels
        attack = ("opencv", "webmorph")[index % 2] if label else ""
        rows.append((score, label, attack, ("frll", "ferèt")[index // 2 % 2], f"{index}.png"))
    return rows


def measure(rows: list[Row], metric: MorphMetric | None = None, batch: int = 7) -> MorphMetric:
    metric = metric or MorphMetric()
    for start in range(0, len(rows), batch):
        scores, labels, attacks, datasets, names = zip(*rows[start : start + batch], strict=True)
        metric.update(torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), attacks, datasets, names)
    return metric


def rates(rows: list[Row], threshold: float) -> tuple[float, float]:
    """Return MACER and BSCER."""
    morphs, bona_fide = [r[0] for r in rows if r[1]], [r[0] for r in rows if not r[1]]
    return (
        sum(score < threshold for score in morphs) / len(morphs),
        sum(score >= threshold for score in bona_fide) / len(bona_fide),
    )


def brute_force(rows: list[Row]) -> dict[str, float]:
    """Return the figures without a threshold, and macer and bscer at that of the equal error rate."""
    thresholds = [*sorted({row[0] for row in rows}), math.inf]
    points = [rates(rows, threshold) for threshold in thresholds]
    # differences are rounded so that equal ones are equal
    best = min(range(len(points)), key=lambda k: (round(abs(points[k][0] - points[k][1]), 9), sum(points[k]), k))
    figures = {"eer": sum(points[best]) / 2, "macer": points[best][0], "bscer": points[best][1]}
    pairs = [(m[0] > b[0]) + 0.5 * (m[0] == b[0]) for m in rows if m[1] for b in rows if not b[1]]
    figures["auroc"] = sum(pairs) / len(pairs)
    for x in OPERATING_POINTS:
        figures[f"bscer_at_macer_{x}"] = min(bscer for macer, bscer in points if macer <= x / 100)
        figures[f"macer_at_bscer_{x}"] = min(macer for macer, bscer in points if bscer <= x / 100)
    return figures


def figures_with_intervals(scores: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Return the figures of one set."""
    names = np.full(len(scores), "d", dtype=object)
    part = MorphScores(scores, labels, names, names)
    return PartFigures.of(part, math.nan, np.random.default_rng(seed)).figures


def assert_equal(first: dict[str, float], second: dict[str, float]) -> None:
    """Demand the same numbers, to the last digit, with nan for nan."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value == second[name] or (math.isnan(value) and math.isnan(second[name])), name


@pytest.mark.parametrize("levels", [1, 2, 5, 12, 10**9])
@pytest.mark.parametrize("seed", range(4))
def test_figures_of_each_part_equal_brute_force(seed: int, levels: int) -> None:
    rows = make_rows(seed, levels=levels)

    figures = measure(rows).compute()

    of_attacks: dict[str, list[float]] = {}
    of_sets: dict[str, list[float]] = {}
    for dataset in ("frll", "ferèt"):
        part = [row for row in rows if row[3] == dataset]
        parts = {f"/{dataset}": part} | {
            f"/{dataset}/{attack}": [row for row in part if row[2] in ("", attack)] for attack in ("opencv", "webmorph")
        }
        for suffix, chosen in parts.items():
            expected = brute_force(chosen)
            macer, bscer = rates(chosen, figures["threshold"])
            for name, value in (expected | {"macer": macer, "bscer": bscer}).items():
                assert figures[name + suffix] == pytest.approx(value, abs=1e-12), name + suffix
                if suffix.count("/") == 1:
                    of_sets.setdefault(name, []).append(figures[name + suffix])
                else:
                    of_attacks.setdefault(name, []).append(figures[name + suffix])
            assert figures[f"n_morph{suffix}"] == sum(row[1] for row in chosen)
            assert figures[f"n_bonafide{suffix}"] == sum(1 - row[1] for row in chosen)
    for name, values in of_sets.items():
        assert figures[name] == pytest.approx(np.mean(values)), name
        assert figures[f"{name}_worst_set"] == (min if name == "auroc" else max)(values)
    for name, values in of_attacks.items():
        assert figures[f"{name}_average"] == pytest.approx(np.mean(values))
        assert figures[f"{name}_worst"] == (min if name == "auroc" else max)(values)
        assert figures[f"{name}_average/frll"] == pytest.approx(np.mean(values[:2]))


def test_curve_figures_equal_torchmetrics() -> None:
    rows = [(*row[:3], "frll", row[4]) for row in make_rows(5, number=300, levels=50)]
    figures = measure(rows).compute()
    scores, labels = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])

    assert figures["auroc"] == pytest.approx(binary_auroc(scores, labels).item(), abs=1e-6)
    for x in OPERATING_POINTS:
        sensitivity = binary_sensitivity_at_specificity(scores, labels, 1 - x / 100)[0].item()
        specificity = binary_specificity_at_sensitivity(scores, labels, 1 - x / 100)[0].item()
        assert figures[f"macer_at_bscer_{x}"] == pytest.approx(1 - sensitivity, abs=1e-6)
        assert figures[f"bscer_at_macer_{x}"] == pytest.approx(1 - specificity, abs=1e-6)


def test_a_limit_that_is_met_exactly_is_met() -> None:
    # 1 of 20 morphs lies below all bona fide images: MACER is exactly 5 percent
    rows = [(0.1, 1, "a", "d", "low")] + [(0.9, 1, "a", "d", f"m{i}") for i in range(19)]
    rows += [(0.5, 0, "", "d", f"b{i}") for i in range(3)]
    figures = measure(rows).compute()

    assert (figures["bscer_at_macer_5"], figures["bscer_at_macer_1"]) == (0, 1)


def test_iso_30107_names_mean_the_same() -> None:
    figures = measure(make_rows()).compute()

    assert figures["bpcer_at_apcer_5/frll/opencv"] == figures["bscer_at_macer_5/frll/opencv"]
    for name, value in figures.items():
        assert figures[name.replace("macer", "apcer").replace("bscer", "bpcer")] == pytest.approx(value, nan_ok=True)


def test_names_of_parts_are_left_alone() -> None:
    figures = measure([(s, y, "macer" if y else "", "bscer", n) for s, y, _, _, n in make_rows()]).compute()

    assert "apcer/bscer/macer" in figures
    assert not any("bpcer/" in name.partition("/")[2] for name in figures)


def test_figures_do_not_depend_on_order_and_batches() -> None:
    rows = make_rows()
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]

    assert_equal(measure(shuffled, batch=3).compute(), measure(rows).compute())


def test_repeated_images_count_once_and_nameless_ones_not_at_all() -> None:
    rows = make_rows()
    filled = rows + rows[3:6] + [(*row[:4], "") for row in rows[6:10]]
    # the same name in another data set is another image
    others = [(0.2, 0, "", "third", "0.png")]

    assert_equal(measure(filled).compute(), measure(rows).compute())
    assert measure(rows + others).compute()["n_bonafide"] == measure(rows).compute()["n_bonafide"] + 1


def test_a_repeated_image_with_another_score_gives_the_same_figures_in_either_order() -> None:
    rows = make_rows()
    changed = [(1 - row[0], *row[1:]) for row in rows]

    assert_equal(measure(rows + changed).compute(), measure(changed + rows).compute())


def test_a_threshold_from_validation_is_used_in_test() -> None:
    validation, test = make_rows(1), [(*row[:3], "frll", row[4]) for row in make_rows(2)]
    scores, labels = np.array([row[0] for row in validation]), np.array([row[1] for row in validation])
    metric = MorphMetric(threshold=threshold_at_macer(scores, labels, 0.1))
    figures = measure(test, metric).compute()

    assert metric.threshold is not None
    called = [row[0] >= metric.threshold for row in test]
    right = [call == bool(row[1]) for call, row in zip(called, test, strict=True)]
    hits = sum(call and bool(row[1]) for call, row in zip(called, test, strict=True))
    assert figures["threshold"] == metric.threshold
    assert figures["accuracy"] == pytest.approx(np.mean(right))
    assert figures["f1"] == pytest.approx(2 * hits / (sum(called) + sum(row[1] for row in test)))
    assert (figures["macer"], figures["bscer"]) == pytest.approx(rates(test, metric.threshold))
    assert figures["threshold_at_eer"] == measure(test).compute()["threshold"]


@pytest.mark.parametrize("levels", [1, 2, 5, 10**9])
@pytest.mark.parametrize("seed", range(4))
def test_chosen_thresholds_reach_what_the_curve_promises(seed: int, levels: int) -> None:
    rows = make_rows(seed, levels=levels)
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    expected = brute_force(rows)

    at_eer = figures_at_threshold(scores, labels, threshold_at_eer(scores, labels))
    assert (at_eer["macer"], at_eer["bscer"]) == pytest.approx((expected["macer"], expected["bscer"]))
    for x in OPERATING_POINTS:
        at_macer = figures_at_threshold(scores, labels, threshold_at_macer(scores, labels, x / 100))
        assert at_macer["macer"] <= x / 100
        assert at_macer["bscer"] == pytest.approx(expected[f"bscer_at_macer_{x}"])


def test_a_threshold_keeps_its_distance_from_the_scores() -> None:
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])

    assert threshold_at_eer(scores, labels) == 0.5
    assert threshold_at_macer(scores, labels, 0.0) == 0.5
    assert threshold_at_macer(scores, 1 - labels, 1.0) > 0.9


def test_the_curve_runs_from_all_rejected_to_all_accepted() -> None:
    rows = make_rows()
    thresholds, macer, bscer = error_curve(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))

    assert (macer[0], bscer[0], macer[-1], bscer[-1]) == (0, 1, 1, 0)
    for threshold, *point in zip(thresholds, macer, bscer, strict=True):
        assert rates(rows, threshold) == pytest.approx(tuple(point))


def test_sets_with_other_levels_are_not_pooled() -> None:
    """15.16: two sets at EER 0, one with all scores below the other's, gave a headline of .5."""
    rows = []
    for dataset, level in (("frll", 0.0), ("feret", 0.5)):
        scores, labels = separated(20, level + 0.05, level + 0.3)
        for index, (score, label) in enumerate(zip(scores, labels, strict=True)):
            rows.append((float(score), int(label), "a" if label else "", dataset, f"{index}.png"))
    figures = measure(rows).compute()
    assert (figures["eer"], figures["eer_worst_set"], figures["auroc"]) == (0, 0, 1)
    assert figures["eer_high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    # one more set, at chance
    rows += [(0.5, index % 2, "a", "frgc", f"{index}.png") for index in range(40)]
    figures = measure(rows).compute()
    assert (figures["eer"], figures["eer_worst_set"]) == (pytest.approx(0.5 / 3), 0.5)
    assert figures["auroc_worst_set"] == 0.5
    assert figures["n_morph"] == 60


def test_the_interval_of_a_mean_over_sets_is_narrower_than_those_of_sets() -> None:
    """15.16: sets are resampled on their own; of two equal ones the half width shrinks by the root of 2."""
    rows = [(*row[:3], dataset, row[4]) for dataset in "ab" for row in make_rows(number=400, levels=10**6)]
    figures = measure(rows).compute()
    half, of_set = (figures[f"auroc_high{s}"] - figures[f"auroc_low{s}"] for s in ("", "/a"))
    # percentiles of 1000 resamples are off by some 5 %
    assert half / of_set == pytest.approx(2**-0.5, rel=0.15)


def test_intervals_hold_the_figure_and_follow_the_seed() -> None:
    rows = make_rows(number=200)
    first, again, other = (measure(rows, MorphMetric(seed=seed)).compute() for seed in (0, 0, 1))

    assert_equal(first, again)
    assert first["auroc_low"] < first["auroc"] < first["auroc_high"]
    assert first["eer_low"] <= first["eer"] <= first["eer_high"]
    assert other["auroc_low"] != first["auroc_low"]


def separated(number: int, low: float = 0.2, high: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of as many bona fide images as morphs, told apart without an error."""
    spread = np.linspace(0, 0.1, number)
    return np.concatenate([low + spread, high + spread]), np.repeat([0, 1], number)


def test_a_perfect_test_has_exact_limits() -> None:
    """15.14: 20 + 20 separated scores have an interval up to .168, not [0, 0]."""
    figures = figures_with_intervals(*separated(20), seed=0)
    limit = scipy_stats.beta.ppf(0.975, 1, 20)
    assert limit == pytest.approx(0.168, abs=5e-4)
    for name in ("eer", "bscer_at_macer_5", "macer_at_bscer_5"):
        assert (figures[name], figures[f"{name}_low"]) == (0, 0)
        assert figures[f"{name}_high"] == pytest.approx(limit)
    assert (figures["auroc_low"], figures["auroc_high"]) == pytest.approx((1 - limit, 1))
    worst = figures_with_intervals(*separated(20, 0.8, 0.2), seed=0)
    assert (worst["eer_low"], worst["eer_high"]) == pytest.approx((1 - limit, 1))
    assert (worst["bscer_at_macer_5_low"], worst["auroc_high"]) == pytest.approx((1 - limit, limit))


def test_intervals_cover_a_small_true_rate() -> None:
    """15.14: at a true EER of 1 % the 95 % interval of 30 + 30 images covered it in 46 %."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    covered = 0
    for _ in range(100):
        # normal scores, one deviation apart from the middle by the quantile of 1 %
        scores = random.normal(size=60) + scipy_stats.norm.ppf(0.99) * np.where(labels == 1, 1, -1)
        found = figures_with_intervals(scores, labels, seed=0)
        covered += found["eer_low"] <= 0.01 <= found["eer_high"]
    # 95 of 100, less three deviations of a binomial
    assert covered >= 95 - 3 * (100 * 0.95 * 0.05) ** 0.5


def test_intervals_are_those_of_resampling_each_class_by_hand() -> None:
    rows = make_rows(3, number=40, levels=8)
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = np.concatenate(
            [random.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in (0, 1)]
        )
        drawn.append(brute_force([rows[index] for index in chosen])["eer"])
    figures = figures_with_intervals(scores, labels, seed=0)

    # 16 to 24 images of a class: a step of the rate is about 0.05
    assert (figures["eer_low"], figures["eer_high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


def test_large_sets_are_resampled_in_pieces_of_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(number=100)
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    whole = figures_with_intervals(scores, labels, 0)
    monkeypatch.setattr("eomt.metrics.morph.CHUNK", 700)
    pieces = figures_with_intervals(scores, labels, 0)

    assert pieces["auroc"] == whole["auroc"]
    assert pieces["auroc_low"] == pytest.approx(whole["auroc_low"], abs=0.02)


@pytest.mark.parametrize("score", [-0.1, 1.2, math.nan])
def test_what_is_no_probability_is_refused(score: float) -> None:
    with pytest.raises(UserError, match=r"scores: .*; must be probabilities from 0 to 1"):
        measure([(score, 1, "a", "d", "x.png")])


def test_one_class_alone_has_no_figures_and_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = measure([row for row in make_rows() if row[1]]).compute()
        nothing = MorphMetric().compute()

    assert math.isnan(alone["eer"])
    assert math.isnan(alone["accuracy"])
    assert alone["n_morph"] > alone["n_bonafide"] == 0
    assert nothing["n_morph"] == 0
    assert math.isnan(nothing["eer_average"])


def test_reset_forgets() -> None:
    metric = measure(make_rows(1))
    metric.compute()
    metric.reset()

    assert_equal(measure(make_rows(), metric).compute(), measure(make_rows()).compute())


def figures_of(rank: int) -> list[Any]:
    """Return what rank sees with the other: each has attacks that the other has not; then rank 1 has nothing."""
    rows = make_rows(number=41)
    filling = [rows[0], (*rows[1][:4], "")] if rank else []
    shared = measure(rows[rank::2] + filling).compute()
    alone = measure([] if rank else rows).compute()
    return [shared, alone]


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    expected = measure(make_rows(number=41)).compute()
    for found in on_two_ranks(figures_of, tmp_path):
        for figures in found:
            assert_equal(figures, expected)
