"""What `test` leaves for a page of its run, through the command line with a tiny network."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli_runs import make_workspace


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for four steps, and tested."""
    workspace = make_workspace(tmp_path_factory.mktemp("reported"))
    run = workspace.fit("reported", "--trainer.max_epochs", "1")
    assert not (run / "report.html").exists()
    workspace.run("test", "--ckpt_path", "best", "--run_name", "reported")
    return run


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_page_is_written_and_says_where_figures_come_from(run: Path) -> None:
    text = (run / "report.html").read_text()
    for section in ("curves", "parts", "confusion", "examples", "pictures", "adapters", "configuration", "origins"):
        assert f'id="{section}"' in text
    assert 'id="missing"' not in text
    summary = json.loads((run / "training_summary.json").read_text())
    assert summary["command"]
    assert summary["machine"].startswith("CPU")


def test_the_confusion_matrix_is_that_of_the_figures(run: Path) -> None:
    with only(run / "results", "*_confusion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row.pop("truth \\ prediction") for row in rows]
    assert [list(row) for row in rows] == [names] * 3
    counts = np.array([[int(count) for count in row.values()] for row in rows])
    assert counts.sum() == 2 * 32 * 48
    metrics = json.loads(only(run / "results", "*_eval.json").read_text())["metrics"]
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert metrics["test_accuracy"] == pytest.approx(counts.trace() / counts.sum())
    for name, iou in zip(names, counts.diagonal() / union, strict=True):
        assert metrics[f"test_iou/{name}"] == pytest.approx(iou)


def test_examples_are_images_of_the_test_the_best_with_the_higher_figure(run: Path) -> None:
    folder = only(run / "results", "*_examples")
    found = json.loads((folder / "examples.json").read_text())
    (best,), (worst,) = found["best"], found["worst"]
    assert {best["name"], worst["name"]} == {"00.png", "01.png"}
    assert 0 <= worst["figure"] <= best["figure"] <= 1
    for example in (best, worst):
        with Image.open(folder / example["file"]) as picture:
            assert picture.size == (480, 322)
    assert [color["color"] for color in found["legend"]] == ["#0072b2", "#e69f00", "#009e73"]
