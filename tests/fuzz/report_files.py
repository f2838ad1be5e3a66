"""Files of runs that a page shows, each in a folder of its own, and what makes a page of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from eomt.reports.page import render_page
from eomt.reports.run_files import is_run, read_run
from tests.made_up_runs import write_run, write_table, write_test


def reported_file(name: str) -> Callable[[Path], Path]:
    """Return what writes a tested run, and returns one of its files: by name, or by what follows the time of a test."""
    return partial(_write, name)


def _write(name: str, folder: Path) -> Path:
    run = folder / "run"
    write_run(run)
    results = write_test(run, test_threshold=0.5)
    scores = {"name": "a.png", "attack": "warp", "label": 1, "score": 0.75, "dataset": "faces"}
    write_table(Path(f"{results}_scores.csv"), [scores])
    write_table(Path(f"{results}_answers.csv"), [{"type": "colour", "answer": "red", "predicted": "blue"}])
    return Path(f"{results}{name}") if name.startswith("_") else run / name


def render(file: Path) -> str:
    """Return the page of the run of a file, which says what is damaged and has all else."""
    folder = next(folder for folder in file.parents if is_run(folder))
    text = render_page(read_run(folder))
    assert "</html>" in text
    assert "<script" not in text.lower()
    text.encode()
    return text
