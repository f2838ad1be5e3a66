"""The closing table of a run, from its files."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eomt.errors import printable
from eomt.reports.run_files import as_tested, read_evaluation, read_summary
from eomt.utils.tables import size_text


def report(folder: Path) -> Table:
    """Return the table of the run in `folder`.

    Raises:
        UserError: If the folder holds no summary.
    """
    summary = read_summary(folder)
    # of texts, since brackets in a str are Rich's markup
    table = Table(title=Text(printable(folder.name)), show_header=False, title_justify="left")
    metric = summary["metric"]
    _add(table, f"{metric}, base (step 0)", _figure(summary["baseline"]))
    _add(table, f"{metric}, best (step {summary['best_step']})", _figure(summary["best"]))
    found = read_evaluation(folder)
    tested = found[1] if found is not None and found[1]["weights"] else None
    if tested is not None and (name := as_tested(metric)) in tested["metrics"]:
        _add(table, f"{name}, as measured by test", _figure(tested["metrics"][name]))
    trained, total = summary["trainable_parameters"], summary["total_parameters"]
    _add(table, "parameters trained", f"{trained:,} of {total:,} ({100 * trained / total:.2f} %)")
    _add(table, "adapter file", _bytes(summary["adapter_bytes"]))
    _add(table, "merged file", _bytes(summary["merged_bytes"]))
    difference = summary["merge_relative_diff"]
    _add(table, "merged against adapted", "-" if difference is None else f"{difference:.1e} relative")
    if (apart := summary.get("merge_quantized_diff")) is not None:
        _add(table, "merged against quantized", f"{apart:.1e} relative: the base is not quantized in it")
    _add(table, "audit", summary["audit"])
    if stopped := summary.get("stopped_early"):
        _add(table, "stopped early", stopped)
    # runs of 0.1.0 have none
    notes = summary.get("notes", [])
    for note in notes if tested is None else tested.get("notes", notes):
        _add(table, "note", note)
    _add(table, "seconds", f"{summary['seconds']:.0f}")
    pictures = sorted((folder / "pictures").glob("*.png"))
    pictures += sorted((folder / "predictions" / "overlays").rglob("*.png"))[:1]
    if pictures:
        _add(table, "pictures", "\n".join(str(picture) for picture in first_and_last(pictures)))
    return table


def _add(table: Table, name: str, value: str) -> None:
    table.add_row(Text(name), Text("\n".join(map(printable, value.split("\n")))))


def print_report(folder: Path) -> None:
    """Print the table of the run in `folder`."""
    wide_console().print(report(folder))


def wide_console() -> Console:
    """Return a console for tables on stdout."""
    # people copy paths from a log file: a wide table does not cut them
    return Console() if sys.stdout.isatty() else Console(width=160)


def first_and_last(pictures: list[Path]) -> list[Path]:
    """Return the pictures without those of all validations but the last, which shows step 0 too."""
    validations = [picture for picture in pictures if picture.name.startswith("val_")]
    return [picture for picture in pictures if picture not in validations[:-1]]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else size_text(count)
