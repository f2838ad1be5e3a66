"""The page of a run: one HTML file that loads nothing."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eomt import __version__
from eomt.errors import UserError, printable, shortened
from eomt.reports.charts import LineChart, Series, line_chart
from eomt.reports.closing_table import first_and_last
from eomt.reports.confusion import Matrix, matrices
from eomt.reports.figures import figure_text, notes, parts, rival_verdict, rivals, tiles
from eomt.reports.pictures import Embedded, Pictures
from eomt.reports.run_files import Run, as_tested, read_run, verdict
from eomt.reports.schemas import Base, Example
from eomt.reports.settings import shown_settings
from eomt.utils.files import write_file
from eomt.utils.tables import size_text

PAGE = "report.html"
# of long texts and tables; a page stays small whatever a run holds
MOST_LINES, MOST_CHARACTERS, MOST_FIGURES = 2000, 400, 1500
MOST_COLORS = 50
EXAMPLE_WIDTH, PICTURE_WIDTH = 640, 1400
SECTIONS = {
    "charts": ("curves", "Curves"),
    "of_parts": ("parts", "Parts"),
    "matrices": ("confusion", "Confusion"),
    "best": ("examples", "Examples"),
    "pictures": ("pictures", "Pictures"),
    "adapters": ("adapters", "Audit and adapters"),
    "config": ("configuration", "Configuration"),
    "figures": ("figures", "All figures"),
    "origins": ("origins", "Versions and machine"),
    "log": ("log", "Log"),
    "missing": ("missing", "What is not here"),
}
# pictures of a run that are shown, by the beginning of their names, and what they are
PICTURES = {
    "val_step": "validation images at the last step",
    "validate": "validation images",
    "test": "test images",
    "train_batch": "the first training batch, as the network sees it",
}
PLOTS = {"_det.png": "DET curves of the test", "_histograms.png": "scores of the test"}


def write_page(folder: Path, path: Path | None = None) -> Path:
    """Write the page of a run; return its path.

    Args:
        folder: Of the run.
        path: Of the page; None puts `report.html` into the folder.

    Raises:
        UserError: If the folder is none of a run, or the page cannot be written.
    """
    path = folder / PAGE if path is None else path
    write_text(path, render_page(read_run(folder)))
    return path


def write_text(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"html: {path} is a folder; give the name of a file")
    write_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def render_page(run: Run) -> str:
    """Return the page of a run."""
    pictures = Pictures(run.folder)
    worst, best = _examples(run, "worst", pictures), _examples(run, "best", pictures)
    examples = run.examples
    content: dict[str, Any] = {
        "title": run.folder.resolve().name or "run",
        "subtitle": _subtitle(run),
        "verdict": " ".join(filter(None, [_verdict(run), rival_verdict(run)])),
        "notes": notes(run),
        "tiles": tiles(run),
        "charts": _charts(run),
        "of_parts": parts(run),
        "matrices": _matrices(run),
        "worst": worst,
        "best": best,
        "examples_caption": examples["caption"] if examples is not None else "",
        "what": examples["picture"] if examples is not None else "",
        "legend": examples["legend"][:MOST_COLORS] if examples is not None else [],
        "pictures": _pictures(run, pictures),
        "adapters": _adapters(run),
        "config": _cut(run.config),
        "settings": shown_settings(run),
        "figures": _all_figures(run),
        "origins": _origins(run),
        "log": _cut(run.log),
    }
    content["missing"] = run.missing + pictures.problems
    names = {"of_parts": content["of_parts"].title} if content["of_parts"] is not None else {}
    content["sections"] = [(place, names.get(key, name)) for key, (place, name) in SECTIONS.items() if content[key]]
    return render("run.html.jinja", content)


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return a template with its content; everything in it is text, never markup."""
    environment = _environment()
    # the hash is of the very characters between the tags
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return environment.get_template(template).render(
        content, style=Markup(_style()), style_hash=f"sha256-{digest}", version=__version__
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("eomt.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_as_text,
    )


@cache
def _style() -> str:
    return Path(__file__).with_name("templates").joinpath("style.css").read_text(encoding="utf-8")


def _as_text(value: Any) -> Any:
    """Return what no encoding knows or what turns a line written out; markup of the templates stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _subtitle(run: Run) -> str:
    task = base = None
    if run.summary is not None:
        task, base = run.summary.get("task"), run.summary.get("base", Base()).get("id")
    elif run.evaluation is not None:
        task = run.evaluation.get("task")
    return ", ".join(filter(None, [task, base and f"on {shortened(base, 120)}"]))


def _verdict(run: Run) -> str:
    if run.summary is not None:
        return verdict(run.summary)
    if run.evaluation is not None and not run.metrics:
        return "Nothing was trained here: these are the figures of a test."
    last = max(run.metrics, default=0)
    if run.metric is None or run.best is None:
        return f"Training has not ended; its last recorded step is {last}, and there is no best step yet."
    if run.best_step == 0:
        return f"Training has not ended. {run.metric}: {figure_text(run.best)} at step 0, the best until step {last}."
    return (
        f"Training has not ended. {run.metric}: {figure_text(run.baseline)} at step 0, {figure_text(run.best)} "
        f"at step {run.best_step}, the best until step {last}."
    )


def _charts(run: Run) -> list[LineChart]:
    metric = run.metric
    losses = [Series(name, run.curve(name)) for name in ("train_loss", "val_loss")]
    beside = [Series(name, run.curve(name), is_dashed=True) for name in rivals(run)]
    marks = []
    if run.best_step is not None and run.best is not None:
        marks.append((run.best_step, run.best, f"best, step {run.best_step}"))
    if metric == "val_loss":
        return [chart for chart in [line_chart("Loss", [*losses, *beside], marks)] if chart]
    found = [line_chart("Loss", losses)]
    if metric is not None:
        trained = metric.replace("val_", "train_")
        watched = [Series(name, run.curve(name)) for name in (trained, metric)]
        found.insert(0, line_chart(metric, [*watched, *beside], marks if run.curve(metric) else []))
    return [chart for chart in found if chart]


def _matrices(run: Run) -> list[Matrix]:
    try:
        return matrices(run)
    except UserError as error:
        run.missing.append(f"{error}.")
        return []


def _examples(run: Run, which: str, pictures: Pictures) -> list[tuple[Example, Embedded | None]]:
    if run.examples is None or run.results is None:
        return []
    folder = run.results.with_name(f"{run.results.name}_examples")
    shown = run.examples["best"] if which == "best" else run.examples["worst"]
    return [(example, pictures.embed(folder / Path(example["file"]).name, EXAMPLE_WIDTH)) for example in shown[:12]]


def _pictures(run: Run, pictures: Pictures) -> list[tuple[str, str, Embedded]]:
    found: list[tuple[Path, str]] = []
    if run.results is not None:
        found += [(run.results.with_name(run.results.name + end), words) for end, words in PLOTS.items()]
    files = first_and_last(sorted((run.folder / "pictures").glob("*.png")))
    for begin, words in PICTURES.items():
        found += [(file, words) for file in files if file.name.startswith(begin)][-1:]
    shown = []
    for file, words in found:
        if file.exists() and (picture := pictures.embed(file, PICTURE_WIDTH)):
            shown.append((file.name, words, picture))
    return shown


def _adapters(run: Run) -> list[tuple[str, str]]:
    summary = run.summary
    if summary is None:
        return []
    trained, total = summary["trainable_parameters"], summary["total_parameters"]
    difference, apart = summary["merge_relative_diff"], summary.get("merge_quantized_diff")
    rows = [
        ("audit", summary["audit"]),
        ("parameters trained", f"{trained:,} of {total:,} ({100 * trained / total:.2f} %)"),
        ("parameters of adapters", f"{summary['lora_parameters']:,}" if "lora_parameters" in summary else None),
        ("adapted layers", f"{summary['adapted_modules']:,}" if "adapted_modules" in summary else None),
        ("adapter file", _size(summary["adapter_bytes"])),
        ("merged file", _size(summary["merged_bytes"])),
        ("merged against adapted", None if difference is None else f"{difference:.1e} relative"),
        ("merged against quantized", None if apart is None else f"{apart:.1e} relative"),
        ("stopped early", summary.get("stopped_early")),
    ]
    return [(name, value) for name, value in rows if value]


def _origins(run: Run) -> list[tuple[str, str]]:
    summary, evaluation = run.summary, run.evaluation
    rows: list[tuple[str, str | None]] = []
    if summary is not None:
        seed = summary.get("seed")
        data = summary.get("data") or {}
        rows += [
            ("command of the training", summary.get("command")),
            ("machine of the training", summary.get("machine")),
            ("seed", None if seed is None else str(seed)),
            ("steps", f"{summary['steps']:,}" if "steps" in summary else None),
            ("seconds", f"{summary['seconds']:.0f}"),
            *((f"data, {split}", _counts(counts)) for split, counts in data.items()),
            ("fingerprint of the base", summary.get("base", {}).get("fingerprint")),
            ("packages", _versions(summary.get("versions", {}))),
        ]
    if evaluation is not None:
        weights = evaluation["weights"]
        rows += [
            ("command of the test", evaluation.get("command")),
            ("machine of the test", evaluation.get("machine")),
            ("tested weights", "the base as it came" if weights is None else Path(weights).name),
            ("packages of the test", _versions(evaluation.get("versions", {}))),
        ]
    rows = [(name, value) for name, value in rows if value]
    return [(name, shortened(value, 1000)) for name, value in dict(rows).items() if value]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _all_figures(run: Run) -> list[tuple[str, list[str]]]:
    tested = run.evaluation["metrics"] if run.evaluation is not None else {}
    names = list(dict.fromkeys(name for row in run.metrics.values() for name in row))
    known = {as_tested(name) for name in names}
    last = {name: value for row in run.metrics.values() for name, value in row.items()}
    best = run.metrics.get(run.best_step, {}) if run.best_step is not None else {}
    rows = []
    for name in names:
        cells = [run.metrics.get(0, {}).get(name), best.get(name), last[name], tested.get(as_tested(name))]
        rows.append((name, [_cell(value) for value in cells]))
    rows += [(name, ["", "", "", _cell(value)]) for name, value in tested.items() if name not in known]
    if len(rows) > MOST_FIGURES:
        run.missing.append(f"{len(rows) - MOST_FIGURES} more figures are in metrics.csv and results/.")
    return rows[:MOST_FIGURES]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _size(count: int | None) -> str | None:
    return None if count is None else size_text(count)


def _cut(lines: list[str]) -> list[str]:
    more = [f"... ({len(lines) - MOST_LINES} more lines)"] if len(lines) > MOST_LINES else []
    return [shortened(line, MOST_CHARACTERS) for line in lines[:MOST_LINES]] + more
