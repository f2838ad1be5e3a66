"""Pixel metrics of anomaly scores against all single pixels, wherever scores crowd, in any order and by any process."""

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from eomt.errors import UserError
from eomt.metrics.anomaly import AnomalyMetric, component_sizes_of
from eomt.metrics.components import ComponentSizes
from eomt.metrics.score_histogram import TOLERANCE, key_score, score_keys
from eomt.utils.labels import IGNORE_INDEX
from tests.ranks import on_two_ranks

NUM_PIXELS = 40_000


def exact_figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The figures of all single pixels, threshold by threshold."""
    thresholds = np.unique(scores)[::-1]
    order = np.argsort(-scores, kind="stable")
    last = np.searchsorted(-scores[order], -thresholds, side="right")
    true_positive = np.concatenate([[0], np.cumsum(labels[order])])[last]
    false_positive = last - true_positive
    recall, fall_out = true_positive / labels.sum(), false_positive / (1 - labels).sum()
    f1 = 2 * true_positive / (last + labels.sum())
    return {
        "auprc": float((np.diff(recall, prepend=0) * true_positive / last).sum()),
        "auroc": float(np.trapezoid(np.append(0, recall), np.append(0, fall_out))),
        "fpr95": float(fall_out[recall >= 0.95][0]),
        "best_f1": float(f1.max()),
    }


def labelled(name: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32 (N,), that crowd in some way, and labels."""
    generator = np.random.default_rng(0)
    labels = (generator.random(NUM_PIXELS) < share).astype(np.int64)
    plain, noise = generator.normal(size=NUM_PIXELS) + 1.5 * labels, generator.random(NUM_PIXELS)
    inverted = 0.5 * noise + 0.5 * (1 - labels)
    scores = {
        "plain": plain,
        "many magnitudes": np.exp(8 * plain),
        "close to 1": 1 - 1e-6 * np.exp(-plain),
        "close to -1": -1 + 1e-5 * np.exp(plain),
        "nearly all at one value": np.where(noise < 0.9, 0.5, plain),
        "a few values": plain.round(),
        "one value": np.full(NUM_PIXELS, 3.0),
        # all negatives of a coarse bin above its positives, the worst that a bin can hide
        "inverted in a coarse bin": 1 + inverted * 2**-7,
        "inverted in fine bins": 1 + 0.1 * generator.integers(0, 6, NUM_PIXELS) + inverted * 2**-15,
        "denormal": -1e-40 * np.exp(plain),
    }[name]
    return scores.astype(np.float32), labels


CROWDS = (
    *("plain", "many magnitudes", "close to 1", "close to -1", "nearly all at one value", "a few values", "one value"),
    *("inverted in a coarse bin", "inverted in fine bins", "denormal"),
)


def as_image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).view(10, -1)


def measured(scores: np.ndarray, labels: np.ndarray, parts: int = 4) -> dict[str, float]:
    metric = AnomalyMetric(["score"], components=False)
    for part, truth in zip(np.split(scores, parts), np.split(labels, parts), strict=True):
        metric.update("set", as_image(part)[None], as_image(truth))
    return metric.compute()["set"]["score"]


@pytest.mark.parametrize("share", [0.3, 0.002])
@pytest.mark.parametrize("crowd", CROWDS)
def test_figures_are_those_of_all_single_pixels(crowd: str, share: float) -> None:
    scores, labels = labelled(crowd, share)
    found, exact = measured(scores, labels), exact_figures(scores, labels)
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE + 1e-9), name
    at_threshold = (scores >= np.float32(found["threshold"])).astype(int)
    f1 = 2 * (at_threshold * labels).sum() / (at_threshold.sum() + labels.sum())
    assert f1 == pytest.approx(found["best_f1"], abs=1e-12)


@pytest.mark.parametrize("figure", ["fpr95", "best_f1"])
def test_a_bin_that_matters_to_one_figure_alone_is_split(figure: str) -> None:
    # pixels of one coarse bin, all positives above all negatives: (score, positives, negatives)
    groups = {
        # few of the positives, of which the 95th percent is one, and half of the negatives
        "fpr95": [(10.0, 18_999, 0), (1.001, 2, 0), (1.0, 0, 10_000), (-10.0, 999, 0), (-20.0, 0, 10_000)],
        # so few negatives that precision hardly falls, and so many positives that F1 does
        "best_f1": [(10.0, 10_000, 0), (1.001, 400, 0), (1.0, 0, 60), (-20.0, 0, 10_000)],
    }[figure]
    scores = np.concatenate([np.full(p + n, score, dtype=np.float32) for score, p, n in groups])
    labels = np.concatenate([np.repeat([1, 0], [p, n]) for _, p, n in groups])
    found, exact = measured(scores, labels, parts=1), exact_figures(scores, labels)
    assert found[figure] == pytest.approx(exact[figure], abs=TOLERANCE)


def test_pixels_at_the_threshold_itself_make_components() -> None:
    truth = torch.zeros(30, 40, dtype=torch.long)
    truth[5:15, 5:25] = 1
    metric = AnomalyMetric(["a"], ComponentSizes(4, 4))
    metric.update("set", (truth == 1)[None].float(), truth)
    figures = metric.compute()["set"]["a"]
    assert figures["threshold"] == 1
    assert (figures["siou"], figures["ppv"], figures["f1"]) == (1, 1, 1)


def test_figures_are_those_of_scikit_learn() -> None:
    for crowd in CROWDS:
        scores, labels = labelled(crowd, 0.02)
        found = measured(scores, labels)
        fall_out, recall, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
        assert found["auprc"] == pytest.approx(metrics.average_precision_score(labels, scores), abs=1e-3)
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-3)
        assert found["fpr95"] == pytest.approx(fall_out[recall >= 0.95][0], abs=1e-3)


def test_a_full_disk_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="TMPDIR: No space left on device while keeping anomaly scores") as error:
        AnomalyMetric(["a"]).update("set", torch.rand(1, 4, 4), torch.zeros(4, 4, dtype=torch.long))
    assert "\n" not in str(error.value)


def test_pixels_wait_on_disk_and_not_in_memory() -> None:
    metric = AnomalyMetric(["a"], components=False)
    truth = torch.zeros(1000, 1000, dtype=torch.long)
    truth[:10] = 1
    tracemalloc.start()
    for _ in range(20):
        metric.update("set", torch.rand(1, 1000, 1000), truth)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    file = metric._datasets["set"].pixels._file
    assert os.fstat(file.fileno()).st_size > 20 * 4_000_000
    # histograms of 2 x 8 bytes a bin
    assert held < 4_000_000
    metric.reset()
    assert file.closed


def test_bins_are_split_only_where_it_matters() -> None:
    scores, labels = labelled("plain", 0.3)
    metric = AnomalyMetric(["score"], components=False)
    metric.update("set", as_image(scores)[None], as_image(labels))
    seen = metric._datasets["set"]
    read: list[int] = []
    original = type(seen.pixels).__iter__
    seen.pixels = type("Counting", (), {"__iter__": lambda _, inner=seen.pixels: read.append(1) or original(inner)})()
    metric.compute()
    assert len(read) <= 2


def test_keys_are_ordered_as_the_scores_and_turn_back_into_them() -> None:
    values = [-np.inf, -1e30, -1.0, -1e-42, 0.0, 1e-42, 0.3, 1.0, np.nextafter(np.float32(1), np.float32(2)), np.inf]
    keys = score_keys(torch.tensor(values, dtype=torch.float32))
    assert (keys.diff() > 0).all()
    assert keys.min() >= 0
    assert keys.max() < 2**32
    assert [key_score(key) for key in keys.tolist()] == [float(np.float32(value)) for value in values]
    assert score_keys(torch.tensor([-0.0])) == score_keys(torch.tensor([0.0]))


def images() -> list[tuple[str, Tensor, Tensor]]:
    """Data set, scores (2, 30, 40) and truth of eight images of two sets, one of them seen by every other process."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for index in range(8):
        truth = torch.zeros(30, 40, dtype=torch.long)
        truth[5 : 12 + index, 10 : 20 + index] = 1
        truth[25:] = IGNORE_INDEX
        scores = torch.randn(2, 30, 40, generator=generator) + 2 * (truth == 1)
        found.append(("only on rank 1" if index % 2 else "both", scores, truth))
    return found


def metric_of(chosen: list[tuple[str, Tensor, Tensor]]) -> AnomalyMetric:
    metric = AnomalyMetric(["a", "b"], ComponentSizes(4, 4))
    for image in chosen:
        metric.update(*image)
    return metric


def test_ignored_pixels_never_count() -> None:
    others = [(name, torch.where(truth == IGNORE_INDEX, 100.0, scores), truth) for name, scores, truth in images()]
    assert metric_of(images()).compute() == metric_of(others).compute()
    # nan there is no mistake either
    nans = [(name, torch.where(truth == IGNORE_INDEX, torch.nan, scores), truth) for name, scores, truth in images()]
    assert metric_of(images()).compute() == metric_of(nans).compute()


def test_the_order_of_images_does_not_matter_and_reset_forgets() -> None:
    metric = metric_of(images())
    figures = metric.compute()
    for dataset, backwards in metric_of(images()[::-1]).compute().items():
        for score, of_score in backwards.items():
            assert of_score == pytest.approx(figures[dataset][score], rel=1e-12)
    metric.reset()
    assert metric.compute() == {}


def test_a_set_without_anomalies_has_no_figures() -> None:
    metric = AnomalyMetric(["a"], ComponentSizes(4, 4))
    metric.update("set", torch.rand(1, 4, 5), torch.zeros(4, 5, dtype=torch.long))
    figures = metric.compute()["set"]
    assert figures[""] == {"images": 1, "anomalous": 0.0}
    assert all(np.isnan(value) for value in figures["a"].values())


def test_anomalies_alone_have_a_precision_and_no_false_positives() -> None:
    metric = AnomalyMetric(["a"], ComponentSizes(4, 4))
    metric.update("set", torch.rand(1, 30, 40), torch.ones(30, 40, dtype=torch.long))
    figures = metric.compute()["set"]["a"]
    assert figures["auprc"] == 1
    assert np.isnan(figures["auroc"])
    assert np.isnan(figures["fpr95"])


def test_an_image_that_is_ignored_altogether_changes_nothing_but_the_number_of_images() -> None:
    metric = metric_of(images())
    metric.update("both", torch.rand(2, 30, 40), torch.full((30, 40), IGNORE_INDEX))
    expected = metric_of(images()).compute()
    expected["both"][""]["images"] += 1
    assert metric.compute() == expected


def test_a_score_that_is_nan_is_refused_by_name() -> None:
    maps = torch.rand(2, 4, 5)
    maps[1, 2, 3] = torch.nan
    with pytest.raises(UserError, match="street: score b is nan"):
        AnomalyMetric(["a", "b"]).update("street", maps, torch.zeros(4, 5, dtype=torch.long))


def test_sizes_of_components_are_those_of_the_benchmarks_tracks() -> None:
    """15 D: Lost & Found of Fishyscapes is in the anomaly track, the original in the obstacle track."""
    for name in ("RoadObsticle21", "RoadObstacle21", "dataset_ObstacleTrack", "LostAndFound", "lost_and_found"):
        assert component_sizes_of(name) == (50, 10), name
    for name in ("RoadAnomaly21", "RoadAnomaly", "fs_static", "dataset_AnomalyTrack", "FS_LostFound_full", "FishyLAF"):
        assert component_sizes_of(name) == (500, 100), name
    for name in ("lost parcels", "obstacles", "RoadAnomaly22"):
        with pytest.raises(UserError, match=rf"component_sizes: null, and '{name}' is no set of .*give"):
            component_sizes_of(name)
        # a figure of the benchmark is the benchmark's, whatever another set was given
        assert component_sizes_of(name, ComponentSizes(4, 4)) == (4, 4)
        assert component_sizes_of("RoadAnomaly21", ComponentSizes(4, 4)) == (500, 100)


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    alone = metric_of(images()).compute()
    for together in on_two_ranks(lambda rank: metric_of(images()[rank::2]).compute(), tmp_path):
        assert list(together) == list(alone)
        for dataset, figures in together.items():
            for score, of_score in figures.items():
                assert of_score == pytest.approx(alone[dataset][score], rel=1e-12), (dataset, score)
