"""Answer weights against their formulas, the file they are kept in, and what they do to training rows."""

import json
import math
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.compute_answer_weights import main
from datamodules.questions.answer_weights import METHODS, Method, capped_weights, weigh_answers
from datamodules.questions.vocabulary import count_answers, vocabulary_hash
from eomt.errors import UserError
from tests.datamodules.questions.question_files import vqa_csv, write_csv, write_questions


def long_tail(num_rows: int = 11_999, num_answers: int = 339, most: int = 537) -> dict[str, int]:
    """Counts like ViVQA's: 1 to 537, 11,999 rows in all, by a power law whose exponent makes the sum right."""
    ranks = np.arange(1, num_answers + 1, dtype=float)
    low, high = 0.0, 3.0
    for _ in range(60):
        exponent = (low + high) / 2
        counts = np.maximum(1, np.round(most * ranks**-exponent))
        low, high = (exponent, high) if counts.sum() > num_rows else (low, exponent)
    counts[0] = most
    counts[-1] = 1
    # a few more of the middle, so that the sum is exact
    counts[100] += num_rows - counts.sum()
    assert counts.min() == 1
    assert counts.max() == most
    return {f"answer {rank}": int(count) for rank, count in enumerate(counts)}


def mean(counts: dict[str, int], weights: dict[str, float]) -> float:
    return sum(counts[answer] * weight for answer, weight in weights.items()) / sum(counts.values())


@pytest.mark.parametrize(
    ("method", "beta", "ratio"),
    [
        ("inverse", 0.99, 537),
        ("effective_number", 0.9, 10),
        ("effective_number", 0.99, 99.5),
        ("effective_number", 0.999, 416),
        ("sqrt_inverse", 0.99, 23.2),
        ("log", 0.99, 3.16),
    ],
)
def test_without_a_cap_the_largest_weight_is_so_many_times_the_smallest(
    method: Method, beta: float, ratio: float
) -> None:
    counts = long_tail()
    weights = weigh_answers(counts, method, beta, cap=1e9, min_count=1).weights
    assert max(weights.values()) / min(weights.values()) == pytest.approx(ratio, rel=0.005)
    assert mean(counts, weights) == pytest.approx(1)


@pytest.mark.parametrize("method", METHODS)
def test_formulas(method: Method) -> None:
    counts = {"a": 50, "b": 7, "c": 1}
    formula = {
        "inverse": lambda n: 1 / n,
        "sqrt_inverse": lambda n: 1 / math.sqrt(n),
        # 1 / E_n with E_n = 1 + beta + ... + beta^(n - 1)
        "effective_number": lambda n: 1 / sum(0.9**power for power in range(n)),
        "log": lambda n: 1 / math.log(1.02 + n / 58),
    }[method]
    weights = weigh_answers(counts, method, 0.9, 100, 1).weights
    for answer, count in counts.items():
        assert weights[answer] / weights["a"] == pytest.approx(formula(count) / formula(50))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cap", [1.0, 1.2, 2.0, 10.0])
def test_the_mean_is_one_and_no_weight_above_the_cap(method: Method, cap: float) -> None:
    counts = long_tail()
    weights = weigh_answers(counts, method, 0.999, cap, 1).weights
    assert mean(counts, weights) == pytest.approx(1, abs=1e-12)
    assert max(weights.values()) <= cap
    # below the cap the formula's ratios stay as they are
    free = weigh_answers(counts, method, 0.999, 1e9, 1).weights
    below = [answer for answer, weight in weights.items() if weight < cap * (1 - 1e-9)]
    ratios = [weights[answer] / free[answer] for answer in below]
    assert np.allclose(ratios, ratios[:1] or 0)
    assert all(weights[answer] == pytest.approx(cap) for answer in weights if answer not in below)


@pytest.mark.parametrize(
    ("beta", "cap", "message"), [(1.0, 10, "beta: 1.0"), (-0.1, 10, "beta"), (0.9, 0.5, "cap: 0.5")]
)
def test_impossible_values_are_refused(beta: float, cap: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weigh_answers({"a": 1}, "inverse", beta, cap, 1)


def test_a_vocabulary_is_sorted_by_falling_count_then_by_text() -> None:
    # the last two are one word, composed and decomposed
    answers = ["Red", "red ", "blue", "BLUE", "green", "a  b", "a b", "\u0111\u1ecf", "\u0111o\u0309"]
    counts = {"a b": 2, "blue": 2, "red": 2, "\u0111\u1ecf": 2, "green": 1}
    assert list(count_answers(answers, 1, "en").items()) == list(counts.items())
    assert list(count_answers(answers, 2, "en")) == list(counts)[:4]
    with pytest.raises(UserError, match="min_answer_count: 3; no training answer occurs more than 2 times"):
        count_answers(answers, 3, "en")
    assert vocabulary_hash(["a", "b"]) != vocabulary_hash(["b", "a"]) != vocabulary_hash(["ab"])


def make_weights(folder: Path, *arguments: str) -> Path:
    output = folder / "answer_weights.json"
    main(["--train_csv", str(folder / "train.csv"), "--output", str(output), *arguments])
    return output


def write_two_files(folder: Path) -> dict[str, Any]:
    write_questions(folder, range(10), questions=3)
    write_questions(folder, range(20, 22), "val.csv")
    return {"val_csv": str(folder / "val.csv")}


def test_the_file_says_how_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_two_files(tmp_path)
    content = json.loads(make_weights(tmp_path, "--min_count", "4").read_text())
    assert (content["method"], content["beta"], content["cap"]) == ("sqrt_inverse", 0.99, 10)
    counts = {answer: entry["count"] for answer, entry in content["answers"].items()}
    assert counts == {"there": 10, "no": 5, "yes": 5, "red": 4}
    assert content["num_rows"] == 24
    assert content["min_count"] == 4
    assert content["vocabulary"] == vocabulary_hash(list(counts))
    assert content["answers"]["no"]["weight"] / content["answers"]["there"]["weight"] == pytest.approx(math.sqrt(2))
    assert "4 answers of 24 training rows" in capsys.readouterr().out
    assert not list(tmp_path.glob(".answer*"))


def row_weights(data: Any) -> dict[str, float]:
    """Return the weight of each training row by its name."""
    data.setup("fit")
    batches = list(data.train_dataloader())
    weights = torch.cat([batch["weight"] for batch in batches])
    assert weights.dtype == torch.float32
    return dict(zip([name for batch in batches for name in batch["name"]], weights.tolist(), strict=True))


@pytest.mark.parametrize("weighs_answers", [False, True])
@pytest.mark.parametrize("type_weights", [None, {"colour": 3.0}, {"count": 1.5, "location": 1.4, "colour": 1.3}])
def test_a_training_row_weighs_answer_times_type_and_one_on_average(
    tmp_path: Path, weighs_answers: bool, type_weights: dict[str, float] | None
) -> None:
    fields = write_two_files(tmp_path)
    file = make_weights(tmp_path)
    of_answer = {answer: entry["weight"] for answer, entry in json.loads(file.read_text())["answers"].items()}
    fields |= {"answer_weights": str(file)} if weighs_answers else {}
    data = vqa_csv(tmp_path, batch_size=5, type_weights=type_weights, **fields)
    weights = row_weights(data)
    assert len(weights) == 30
    assert np.mean(list(weights.values())) == pytest.approx(1, abs=1e-6)
    color, location = (type_weights or {}).get("colour", 1.0), (type_weights or {}).get("location", 1.0)
    of_type = {"colour": color, "location": location, "object": 1.0}
    expected = {
        row.name: of_type[row.question_type] * (of_answer[row.answer] if weighs_answers else 1)
        for row in data.rows("train")
    }
    scale = np.mean(list(expected.values()))
    assert all(weights[name] == pytest.approx(weight / scale, rel=1e-6) for name, weight in expected.items())
    assert len({round(weight, 6) for weight in weights.values()}) > 1 or (type_weights is None and not weighs_answers)


def damage_text(file: Path) -> None:
    file.write_text(file.read_text()[:-40])


def damage_weight(file: Path) -> None:
    file.write_text(file.read_text().replace('"weight": ', '"weight": -', 1))


def damage_answer(file: Path) -> None:
    file.write_text(file.read_text().replace('"there"', '"here"'))


def make_of_others(file: Path) -> None:
    write_csv(file.parent / "other.csv", [[0, "what ?", "purple", 1, 0]])
    main(["--train_csv", str(file.parent / "other.csv"), "--output", str(file)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_text, r"answer_weights\.json: cannot be read as JSON \(.*; make it anew: python -m"),
        (damage_weight, r"answer_weights\.json: answers\..*\.weight is .*, but must be .*; make it anew: python -m"),
        (damage_answer, r"answer_weights\.json: its answers do not fit its hash, .*; make it anew: python -m"),
        (make_of_others, r"belongs to another vocabulary \(1 answers; the training split has 6, among them 'there'.*"),
        (Path.unlink, r"answer_weights\.json: cannot be read"),
    ],
)
def test_weights_that_are_damaged_or_of_another_vocabulary_are_refused(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    fields = write_two_files(tmp_path)
    file = make_weights(tmp_path)
    spoil(file)
    with pytest.raises(UserError, match=message) as caught:
        vqa_csv(tmp_path, answer_weights=str(file), **fields).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"val_fraction": 0.3, "split_seed": 3, "test_fraction": 0.2},
        {"on_leak": "drop", "val_csv": "measured.csv"},
        {"on_missing": "skip", "val_csv": "val.csv"},
        {"question_types": ["shape", "the colour", "x"]},
    ],
)
def test_the_command_in_the_message_makes_weights_that_fit(tmp_path: Path, arguments: dict[str, Any]) -> None:
    write_two_files(tmp_path)
    # answers that only rows have which are dropped, skipped or elsewhere
    rows = [[0, "what ?", f"only {image}", image, 0] for image in range(10)]
    write_csv(tmp_path / "train.csv", [*rows, *([0, "what ?", "all", image, 0] for image in range(8))])
    write_csv(tmp_path / "measured.csv", rows[:2])
    if "on_missing" in arguments:
        (tmp_path / "3.jpg").unlink()
    if "question_types" in arguments:
        text = (tmp_path / "train.csv").read_text().replace(",0\n", ",shape\n")
        (tmp_path / "train.csv").write_text(text)
    if "val_csv" in arguments:
        arguments = arguments | {"val_csv": str(tmp_path / arguments["val_csv"])}
    file = make_weights(tmp_path)
    data = vqa_csv(tmp_path, answer_weights=str(file), batch_size=1, **arguments)
    with pytest.raises(UserError, match="another vocabulary") as caught:
        data.setup("fit")
    main(shlex.split(str(caught.value).partition("compute_answer_weights ")[2]))
    weights = row_weights(data)
    assert np.mean(list(weights.values())) == pytest.approx(1, abs=1e-6)


def test_the_command_says_a_mistake_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "train.csv", [["what ?", "a"]], ["question", "truth"])
    output = tmp_path / "weights.json"
    monkeypatch.setattr(sys, "argv", ["", "--train_csv", str(tmp_path / "train.csv"), "--output", str(output)])
    monkeypatch.delitem(sys.modules, "datamodules.compute_answer_weights")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("datamodules.compute_answer_weights", run_name="__main__")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert (
        "columns question, truth; must have an image column (image, filename, img_id, image_id, image_path," in printed
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_annotations", "a.json", "--val_fraction", "0.3"], "val_fraction: belongs to --train_csv"),
        (["--train_annotations", "a.json", "--question_types", "x", "y"], "question_types: belongs to --train_csv"),
        (["--train_csv", "a.csv", "--train_images", "b"], "train_images: belongs to --train_annotations"),
        (["--train_annotations", "a.json", "--on_missing", "skip"], "train_images: one is missing; give both"),
        (["--train_annotations", "a.json", "--train_images", "b"], "train_images: one is missing; give both"),
    ],
)
def test_fields_of_other_data_are_refused_in_a_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_an_older_file_stays_where_the_new_one_cannot_be_made(tmp_path: Path) -> None:
    write_two_files(tmp_path)
    before = make_weights(tmp_path).read_text()
    with pytest.raises(UserError, match="min_answer_count: 99"):
        make_weights(tmp_path, "--min_count", "99")
    assert (tmp_path / "answer_weights.json").read_text() == before
    with pytest.raises(UserError, match=r"nowhere/w\.json: cannot be written"):
        main(["--train_csv", str(tmp_path / "train.csv"), "--output", str(tmp_path / "nowhere" / "w.json")])


@pytest.mark.parametrize("name", ["train_csv", "train_annotations"])
def test_the_rows_themselves_are_never_replaced(tmp_path: Path, name: str) -> None:
    rows = tmp_path / "rows"
    rows.write_text("mine")
    with pytest.raises(UserError, match=f"output: .* is --{name}, and would be replaced"):
        main([f"--{name}", str(rows), "--output", str(tmp_path / "x" / ".." / "rows")])
    assert rows.read_text() == "mine"


def plainly_capped(counts: np.ndarray, raw: np.ndarray, cap: float) -> np.ndarray:
    """The largest weights are capped one by one, and all others weighed anew each time."""
    capped = np.zeros(len(raw), dtype=bool)
    for place in np.argsort(-raw, kind="stable"):
        scale = (counts.sum() - cap * counts[capped].sum()) / (counts[~capped] * raw[~capped]).sum()
        if scale * raw[~capped].max() <= cap:
            return np.where(capped, cap, scale * raw)
        capped[place] = True
    return np.full(len(raw), cap)


@pytest.mark.parametrize("cap", [1.0, 1.2, 2.0, 5.0, 1e6])
@pytest.mark.parametrize("number", [1, 2, 9, 300])
def test_weights_are_capped_as_one_by_one(number: int, cap: float) -> None:
    random = np.random.default_rng(number)
    counts = random.integers(1, 500, number)
    for power in (0.5, 1.0, 2.0):
        raw = counts**-power
        np.testing.assert_allclose(capped_weights(counts, raw, cap), plainly_capped(counts, raw, cap), rtol=1e-12)
