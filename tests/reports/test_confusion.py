"""Confusion matrices from the tables of a test."""

import json
from pathlib import Path

import pytest

from eomt.reports.confusion import OTHERS, matrices
from eomt.reports.run_files import read_run
from tests.made_up_runs import write_run, write_table, write_test


def run_with_test(folder: Path, **figures: float) -> Path:
    """A run with a test whose table of classes is gone."""
    results = write_test(write_run(folder), **figures)
    Path(f"{results}_confusion.csv").unlink()
    return results


def test_a_row_of_classes_is_the_truth_and_sums_to_a_hundred(tmp_path: Path) -> None:
    write_test(write_run(tmp_path / "run"), ["road", "sky", "car"])
    (matrix,) = matrices(read_run(tmp_path / "run"))
    assert matrix.columns == ["road", "sky", "car"]
    name, cells = matrix.rows[0]
    assert name == "road"
    assert [cell.share for cell in cells] == ["90.0", "10.0", "0"]
    assert [cell.is_right for cell in cells] == [True, False, False]


def test_of_many_classes_the_largest_confusions_come_first(tmp_path: Path) -> None:
    results = write_test(write_run(tmp_path / "run"), [f"class {number}" for number in range(21)])
    rows = [
        {"truth \\ prediction": f"class {row}"} | {f"class {column}": int(row == column) for column in range(21)}
        for row in range(21)
    ]
    rows[4]["class 7"], rows[5]["class 8"] = 3, 1
    write_table(Path(f"{results}_confusion.csv"), rows)
    (matrix,) = matrices(read_run(tmp_path / "run"))
    assert matrix.rows == []
    assert matrix.pairs == [("class 4", "class 7", 3, "75.0"), ("class 5", "class 8", 1, "50.0")]


def test_faces_are_counted_by_attack_at_the_threshold(tmp_path: Path) -> None:
    results = run_with_test(tmp_path / "run", test_threshold=0.5)
    faces = [("", 0, 0.1), ("", 0, 0.5), ("warp", 1, 0.9), ("warp", 1, 0.4), ("blend", 1, 0.7)]
    rows = [
        {"name": f"{number}.png", "attack": attack, "label": label, "score": score, "dataset": "faces"}
        for number, (attack, label, score) in enumerate(faces)
    ]
    write_table(Path(f"{results}_scores.csv"), rows)
    (matrix,) = matrices(read_run(tmp_path / "run"))
    counts = {name: [cell.count for cell in cells] for name, cells in matrix.rows}
    # a score at the threshold is a morph
    assert counts == {"bona fide": [1, 1], "morph: blend": [0, 1], "morph: warp": [1, 1]}
    assert [cell.is_right for cell in matrix.rows[0][1]] == [True, False]
    assert [cell.is_right for cell in matrix.rows[1][1]] == [False, True]


def test_without_a_threshold_there_are_no_decisions_to_count(tmp_path: Path) -> None:
    results = run_with_test(tmp_path / "run")
    write_table(
        Path(f"{results}_scores.csv"), [{"name": "a", "attack": "", "label": 0, "score": 0.1, "dataset": "faces"}]
    )
    assert matrices(read_run(tmp_path / "run")) == []


def test_answers_are_counted_by_type_and_rare_ones_are_others(tmp_path: Path) -> None:
    results = run_with_test(tmp_path / "run")
    rows = [{"type": "colour", "answer": f"c{number % 10}", "predicted": f"c{number % 10}"} for number in range(40)]
    rows += [
        {"type": "colour", "answer": "c0", "predicted": "c9"},
        {"type": "yes/no", "answer": "yes", "predicted": "no"},
    ]
    write_table(Path(f"{results}_answers.csv"), rows)
    colour, yes_no = matrices(read_run(tmp_path / "run"))
    assert (colour.title, yes_no.title) == ("colour", "yes/no")
    assert len(colour.rows) == 8
    assert colour.columns[-1] == OTHERS
    name, cells = colour.rows[0]
    assert name == "c0"
    assert (cells[0].count, cells[-1].count) == (4, 1)


def test_a_test_of_the_base_is_read_like_another(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    results = write_test(folder)
    file = Path(f"{results}_eval.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": None}))
    run = read_run(folder)
    assert len(matrices(run)) == 1
    assert run.tested is None


@pytest.mark.parametrize("text", ["truth \\ prediction,a\na,x\n", "x,a\na,1\n", "truth \\ prediction,a\na\n"])
def test_a_damaged_table_is_said(tmp_path: Path, text: str) -> None:
    results = write_test(write_run(tmp_path / "run"))
    Path(f"{results}_confusion.csv").write_text(text)
    with pytest.raises(ValueError, match="is no table of a test"):
        matrices(read_run(tmp_path / "run"))
