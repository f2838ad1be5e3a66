"""The metric of visual question answering: figures by hand, in any order, batch and number of processes."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eomt.metrics.answer_scores import exact_match, soft_accuracy, token_f1
from eomt.metrics.vqa import VQAMetric
from tests.ranks import on_two_ranks

Row = tuple[str, list[str], str, str, str]  # predicted, answers, answer, type, name
ANSWERS = ["đỏ", "xanh lá", "an toàn", "hai", "con mèo", "ở trên ghế"]
TYPES = ["colour", "count", "location"]


def make_rows(number: int = 41, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        answers = [str(answer) for answer in random.choice(ANSWERS[:3], random.integers(1, 11))]
        predicted = str(random.choice([*ANSWERS, "", "không biết\n\0"]))
        rows.append((predicted, answers, answers[0], TYPES[index % 3], f"ảnh {index}\udcff"))
    return rows


def measure(rows: list[Row], metric: VQAMetric | None = None, batch: int = 7) -> VQAMetric:
    metric = metric or VQAMetric(ANSWERS[1:])
    for start in range(0, len(rows), batch):
        metric.update(*(list(column) for column in zip(*rows[start : start + batch], strict=True)), language="vi")  # type: ignore[arg-type]
    return metric


def assert_equal(first: dict[str, float], second: dict[str, float]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value == second[name] or (math.isnan(value) and math.isnan(second[name])), name


def test_figures_are_means_over_questions_and_over_types() -> None:
    rows = make_rows()
    figures = measure(rows).compute()

    accuracy = np.array([soft_accuracy(row[0], row[1], "vi") for row in rows])
    of_type = {kind: accuracy[[row[3] == kind for row in rows]] for kind in TYPES}
    assert 0.1 < accuracy.mean() < 0.9
    assert figures["accuracy"] == pytest.approx(accuracy.mean())
    for name, score in (("exact_match", exact_match), ("f1", token_f1)):
        assert figures[name] == pytest.approx(np.mean([score(row[0], row[2], "vi") for row in rows])), name
    for kind, values in of_type.items():
        assert figures[f"accuracy/{kind}"] == pytest.approx(values.mean())
        assert figures[f"count/{kind}"] == len(values)
    assert figures["accuracy_macro"] == pytest.approx(np.mean([values.mean() for values in of_type.values()]))
    assert figures["n_questions"] == len(rows)


def test_types_of_different_size_weigh_the_same_in_the_macro_mean() -> None:
    rows: list[Row] = [("a", ["a"], "a", "many", str(index)) for index in range(9)]
    figures = measure([*rows, ("a", ["b"], "b", "few", "x"), ("a", ["a"], "a", "", "y")]).compute()

    assert figures["accuracy"] == pytest.approx(10 / 11)
    assert figures["accuracy_macro"] == 0.5
    assert "accuracy/" not in figures


def test_the_vocabulary_bounds_the_accuracy() -> None:
    rows = make_rows()
    figures = measure(rows).compute()
    best = [max(soft_accuracy(answer, row[1], "vi") for answer in ANSWERS[1:]) for row in rows]

    assert figures["oov_rate"] == pytest.approx(np.mean([row[2] == ANSWERS[0] for row in rows]))
    assert figures["ceiling"] == pytest.approx(np.mean(best))
    assert 0 < figures["oov_rate"] < 1
    assert figures["accuracy"] < figures["ceiling"] < 1
    assert not {"oov_rate", "ceiling"} & measure(rows, VQAMetric()).compute().keys()


def test_the_language_decides_what_is_equal() -> None:
    english, vietnamese = VQAMetric(), VQAMetric()
    for metric, language in ((english, "en"), (vietnamese, "vi")):
        metric.update(["an toàn"], [["toàn"]], ["toàn"], ["x"], ["1"], language)

    assert (english.compute()["accuracy"], vietnamese.compute()["accuracy"]) == (1, 0)


def test_figures_do_not_depend_on_order_and_batches() -> None:
    rows = make_rows()
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]

    assert_equal(measure(shuffled, batch=3).compute(), measure(rows).compute())


def test_repeated_questions_count_once_and_nameless_ones_not_at_all() -> None:
    rows = make_rows()
    changed = [("khác", *row[1:]) for row in rows]

    assert_equal(measure(rows + rows[3:6] + [(*row[:4], "") for row in rows[6:10]]).compute(), measure(rows).compute())
    assert_equal(measure(rows + changed).compute(), measure(changed + rows).compute())


def test_nothing_has_no_figures_and_gives_no_warning_and_reset_forgets() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = VQAMetric(ANSWERS).compute()
    assert nothing.pop("n_questions") == 0
    assert all(math.isnan(value) for value in nothing.values())

    metric = measure(make_rows(seed=1))
    metric.compute()
    metric.reset()
    assert metric.compute()["n_questions"] == 0
    metric.reset()
    assert_equal(measure(make_rows(), metric).compute(), measure(make_rows()).compute())


def figures_of(rank: int) -> list[Any]:
    """Return what rank sees together with the other; then rank 1 has nothing."""
    rows = make_rows()
    filling: list[Row] = [rows[0], (*rows[1][:4], "")] if rank else []
    shared = measure(rows[rank::2] + filling).compute()
    alone = measure([] if rank else rows).compute()
    return [shared, alone]


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    expected = measure(make_rows()).compute()
    for found in on_two_ranks(figures_of, tmp_path):
        for figures in found:
            assert_equal(figures, expected)
