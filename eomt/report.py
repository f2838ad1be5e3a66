"""The closing table of a run, from its files. `python -m eomt.report [RUN]` prints it again."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict

from eomt.errors import UserError, printable
from eomt.utils.output import lasting_output
from eomt.utils.reading import Count, Number, read_json
from eomt.utils.tables import size_text

SUMMARY = "training_summary.json"
REMEDY = "restore it, or repeat the run"


class Summary(TypedDict):
    """What is read of a run's summary; runs of 0.1.0 have no notes."""

    metric: str
    baseline: Number | None
    best: Number | None
    best_step: Count | None
    trainable_parameters: Count
    total_parameters: Annotated[int, Field(ge=1)]
    adapter_bytes: Count | None
    merged_bytes: Count | None
    merge_relative_diff: Number | None
    audit: str
    stopped_early: NotRequired[str | None]
    notes: NotRequired[list[str]]
    seconds: Number


class Evaluation(TypedDict):
    """What is read of the results of a test."""

    weights: str | None
    metrics: dict[str, Number | None]
    notes: NotRequired[list[str]]


SUMMARY_FILE, EVALUATION_FILE = TypeAdapter(Summary), TypeAdapter(Evaluation)


def verdict(summary: Mapping[str, Any]) -> str:
    """Return the last line of a run: whether training beat the base."""
    metric, baseline, best = summary["metric"], summary["baseline"], summary["best"]
    if best is None:
        return "Nothing was validated, so nothing can be said about the result."
    if baseline is None:
        return f"Best {metric}: {best:.4f} at step {summary['best_step']}; step 0 was not measured."
    if summary["best_step"] == 0:
        return f"Training never beat step 0: the base as it came is still the best ({metric} {baseline:.4f})."
    return f"{metric}: {baseline:.4f} at step 0, {best:.4f} at step {summary['best_step']} ({best - baseline:+.4f})."


def report(folder: Path) -> Table:
    """Return the table of the run in `folder`.

    Raises:
        UserError: If the folder holds no summary.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise UserError(f"{folder}: holds no {SUMMARY}; give the folder of a run that has ended")
    summary = read_json(path, SUMMARY_FILE, REMEDY)
    # of texts, since brackets in a str are Rich's markup
    table = Table(title=Text(folder.name), show_header=False, title_justify="left")
    metric = summary["metric"]
    _add(table, f"{metric}, base (step 0)", _figure(summary["baseline"]))
    _add(table, f"{metric}, best (step {summary['best_step']})", _figure(summary["best"]))
    files = sorted((folder / "results").glob("*_eval.json"))
    results = [read_json(file, EVALUATION_FILE, REMEDY) for file in files]
    # an evaluation without weights measured the base
    if results := [result for result in results if result["weights"]]:
        measured = results[-1]["metrics"]
        name = metric.replace("val_", "test_")
        if name in measured:
            _add(table, f"{name}, as measured by test", _figure(measured[name]))
    trained, total = summary["trainable_parameters"], summary["total_parameters"]
    _add(table, "parameters trained", f"{trained:,} of {total:,} ({100 * trained / total:.2f} %)")
    _add(table, "adapter file", _bytes(summary["adapter_bytes"]))
    _add(table, "merged file", _bytes(summary["merged_bytes"]))
    difference = summary["merge_relative_diff"]
    _add(table, "merged against adapted", "-" if difference is None else f"{difference:.1e} relative")
    _add(table, "audit", summary["audit"])
    if stopped := summary.get("stopped_early"):
        _add(table, "stopped early", stopped)
    # runs of 0.1.0 have none
    notes = summary.get("notes", [])
    for note in results[-1].get("notes", notes) if results else notes:
        _add(table, "note", note)
    _add(table, "seconds", f"{summary['seconds']:.0f}")
    pictures = sorted((folder / "pictures").glob("*.png"))
    pictures += sorted((folder / "predictions" / "overlays").rglob("*.png"))[:1]
    if pictures:
        _add(table, "pictures", "\n".join(str(picture) for picture in _first_and_last(pictures)))
    return table


def _add(table: Table, name: str, value: str) -> None:
    table.add_row(Text(name), Text("\n".join(map(printable, value.split("\n")))))


def print_report(folder: Path) -> None:
    """Print the table of the run in `folder`."""
    # people copy paths from a log file: a wide table does not cut them
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(report(folder))


def newest_run(root: Path) -> Path:
    """Return `root` itself if it is a run, else the run in it that ended last.

    Raises:
        UserError: If there is none.
    """
    if (root / SUMMARY).is_file():
        return root
    runs = sorted(root.glob(f"*/{SUMMARY}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"{root}: holds no run that has ended; give a run, or a folder of runs")
    return runs[-1].parent


def _first_and_last(pictures: list[Path]) -> list[Path]:
    """Return the pictures without those of all validations but the last, which shows step 0 too."""
    validations = [picture for picture in pictures if picture.name.startswith("val_")]
    return [picture for picture in pictures if picture not in validations[:-1]]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else size_text(count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m eomt.report", description="Prints the table of a run.")
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs"), help="a run, or a folder of runs")
    with lasting_output():
        try:
            print_report(newest_run(parser.parse_args().run))
            sys.stdout.flush()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
