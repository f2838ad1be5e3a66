"""Several runs beside each other: ranked where their figures can be compared, and apart where they cannot."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from eomt.errors import UserError, counted, listed, printable, shortened
from eomt.reports.charts import LineChart, Series, line_chart
from eomt.reports.closing_table import wide_console
from eomt.reports.figures import figure_text
from eomt.reports.run_files import Run, read_run
from eomt.reports.schemas import REMEDY, SPLIT_FILE
from eomt.reports.settings import SHOWN, measuring_settings, settings
from eomt.utils.reading import read_json
from eomt.utils.tables import size_text

SPLITS = "splits.json"
# settings that choose a split, by the end of their address
OF_SPLIT = ("split_seed", "fold", "num_folds", "val_fraction", "test_fraction", "splits", "val_set")
# settings that differ between the runs of a group and get a column, and differences that are named
MOST_SETTINGS, MOST_DIFFERENCES = 4, 2
# lines of a plot
MOST_LINES = 16
UNSET = "null"
COLUMNS = ("run", "best", "at step", "step 0", "gain", "test", "trained", "adapter file", "minutes")


@dataclass(frozen=True)
class Measure:
    """What must be equal for figures to be compared.

    Attributes:
        metric: The figure; None where a run has none.
        settings: Of data and measuring, by address.
        split: What the split of validation is: its record, or its counts; None where no file says it.
    """

    metric: str | None
    settings: dict[str, str]
    split: str | None

    def difference(self, other: "Measure") -> str:
        """Return in words why figures of `self` cannot stand beside those of `other`; "" where they can."""
        if self.metric != other.metric:
            return f"other metric: {self.metric}, not {other.metric}"
        # which data comes first, then where they lie
        addresses = sorted({*self.settings, *other.settings}, key=lambda name: (not name.startswith("data"), name))
        # a setting of another class, or of another version, is as one that is not set
        changed = [name for name in addresses if self.settings.get(name, UNSET) != other.settings.get(name, UNSET)]
        if changed:
            kind = "split" if all(name.split(".")[-1] in OF_SPLIT for name in changed) else "data"
            found = [_difference(name, self.settings, other.settings) for name in changed[:MOST_DIFFERENCES]]
            more = len(changed) - MOST_DIFFERENCES
            return f"other {kind}: {'; '.join(found)}{f'; and {more} more settings' if more > 0 else ''}"
        known = self.split is not None and other.split is not None
        return "other split: the validation images are not the same" if known and self.split != other.split else ""


@dataclass
class Group:
    """Runs whose figures can be compared, the best one first.

    Attributes:
        measure: What they have in common.
        runs: The runs.
        reason: Why they are apart from the first group; "" for the first one.
    """

    measure: Measure
    runs: list[Run]
    reason: str = ""

    @property
    def lower_is_better(self) -> bool | None:
        """Whether the lowest figure is the best; None where no run says it."""
        return next((run.lower_is_better for run in self.runs if run.lower_is_better is not None), None)

    @property
    def title(self) -> str:
        """The figure, and its direction."""
        better = {True: ", lower is better", False: ", higher is better", None: ""}[self.lower_is_better]
        return f"{self.measure.metric or 'no metric'}{better}"

    def rank(self) -> None:
        """Put the best run first, and those without a figure last."""
        sign = 1 if self.lower_is_better else -1
        self.runs.sort(key=lambda run: (run.best is None, sign * (run.best or 0.0), _bytes(run.folder)))


@dataclass
class Comparison:
    """Runs in groups, the largest first, and what is no run."""

    groups: list[Group]
    skipped: list[str]
    names: dict[Path, str] = field(default_factory=dict)


def _difference(name: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    return f"{name} is {shortened(ours.get(name, UNSET), 80)}, not {shortened(theirs.get(name, UNSET), 80)}"


def compare(folders: Sequence[Path]) -> Comparison:
    """Return runs in groups of those whose figures can be compared.

    Args:
        folders: Of runs; what is no run is noted.

    Raises:
        UserError: If none is a run.
    """
    runs, skipped = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            skipped.append(f"skipped: {error}")
    if not runs:
        raise UserError(f"{listed(folders, 3)}: none of them is a run; give folders of runs")
    groups: list[Group] = []
    for run in runs:
        measure = measure_of(run)
        known = next((group for group in groups if not measure.difference(group.measure)), None)
        if known is None:
            groups.append(Group(measure, [run]))
        else:
            known.runs.append(run)
    groups.sort(key=lambda group: (group.measure.metric is None, -len(group.runs)))
    for group in groups:
        group.rank()
        group.reason = group.measure.difference(groups[0].measure)
    names = [run.folder.resolve().name for run in runs]
    shown = {run.folder: n if names.count(n) == 1 else str(run.folder) for run, n in zip(runs, names, strict=True)}
    return Comparison(groups, skipped, shown)


def measure_of(run: Run) -> Measure:
    """Return what the figure of a run depends on beside its training."""
    record: Any = None
    if (run.folder / SPLITS).is_file():
        try:
            record = read_json(run.folder / SPLITS, SPLIT_FILE, REMEDY).get("val")
        except UserError as error:
            run.missing.append(f"{error}.")
    if record is None and run.summary is not None:
        record = (run.summary.get("data") or {}).get("val")
    if record is None:
        return Measure(run.metric, measuring_settings(run), None)
    text = json.dumps(record, sort_keys=True).encode(errors="replace")
    return Measure(run.metric, measuring_settings(run), hashlib.sha256(text).hexdigest())


def table_of(group: Group, names: Mapping[Path, str]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of a group's table; settings in which its runs differ have columns of their own."""
    found = {run.folder: settings(run) for run in group.runs}

    def texts(address: str) -> list[str]:
        return [found[run.folder].get(address, "-") for run in group.runs]

    differing = [(label, address) for label, address in SHOWN if len(set(texts(address))) > 1][:MOST_SETTINGS]
    rows = []
    for run in group.runs:
        own = [shortened(found[run.folder].get(address, "-"), 30) for _, address in differing]
        rows.append([names[run.folder] + ("" if run.summary else " (not ended)"), *_cells(run), *own])
    return [*COLUMNS, *(label for label, _ in differing)], rows


def _cells(run: Run) -> list[str]:
    summary = run.summary
    gain = None if run.best is None or run.baseline is None else run.best - run.baseline
    adapter = summary["adapter_bytes"] if summary is not None else None
    return [
        figure_text(run.best),
        "-" if run.best_step is None else f"{run.best_step:,}",
        figure_text(run.baseline),
        "-" if gain is None else f"{gain:+.4f}",
        figure_text(run.tested),
        "-" if summary is None else f"{summary['trainable_parameters']:,}",
        "-" if adapter is None else size_text(adapter),
        "-" if summary is None else f"{summary['seconds'] / 60:.1f}",
    ]


def print_comparison(compared: Comparison) -> None:
    """Print what is no run, and the table of each group."""
    console = wide_console()
    for line in compared.skipped:
        console.print(Text(printable(line)))
    for group in compared.groups:
        heads, rows = table_of(group, compared.names)
        if group.reason:
            console.print(Text(printable(f"Not comparable with the first table, {group.reason}")))
        table = Table(title=Text(printable(group.title)), title_justify="left")
        for head in heads:
            table.add_column(Text(printable(head)), justify="left" if head == COLUMNS[0] else "right")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print(table)


def write_comparison(compared: Comparison, path: Path) -> Path:
    """Write a page with the tables of all groups, each with a plot of its figure over steps; return its path.

    Raises:
        UserError: If it cannot be written.
    """
    # templates are not needed for a table
    from eomt.reports.page import render, write_text

    groups = []
    for group in compared.groups:
        heads, rows = table_of(group, compared.names)
        reason = f"Not comparable with the first table, {group.reason}." if group.reason else ""
        texts = {"title": group.title, "caption": counted(len(rows), "run"), "reason": reason}
        groups.append(texts | {"columns": heads, "rows": rows, "chart": _chart(group, compared.names)})
    count = sum(len(group.runs) for group in compared.groups)
    content: dict[str, Any] = {
        "title": f"Comparison of {counted(count, 'run')}",
        "verdict": _verdict(compared),
        "groups": groups,
        "skipped": compared.skipped,
    }
    write_text(path, render("comparison.html.jinja", content))
    return path


def _verdict(compared: Comparison) -> str:
    first = compared.groups[0]
    best = first.runs[0]
    apart = f" {counted(len(compared.groups) - 1, 'other table')} cannot be compared with it." * (
        len(compared.groups) > 1
    )
    if best.best is None:
        return f"No run has a best step yet.{apart}"
    among = f"of {counted(len(first.runs), 'run')} that can be compared, " if len(first.runs) > 1 else ""
    found = f"{among}{compared.names[best.folder]} has the best {first.measure.metric}: {best.best:.4f}."
    return found[:1].upper() + found[1:] + apart


def _chart(group: Group, names: Mapping[Path, str]) -> LineChart | None:
    metric = group.measure.metric
    if metric is None:
        return None
    drawn = [Series(names[run.folder], run.curve(metric)) for run in group.runs[:MOST_LINES]]
    left_out = len(group.runs) - MOST_LINES
    return line_chart(metric if left_out <= 0 else f"{metric} of the best {MOST_LINES} runs", drawn)


def _bytes(folder: Path) -> bytes:
    return str(folder).encode(errors="surrogateescape")
