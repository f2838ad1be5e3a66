"""The files of a run, as far as they are there: a run may have been stopped, or never tested."""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eomt.errors import UserError
from eomt.reports.schemas import (
    EVALUATION_FILE,
    EXAMPLES_FILE,
    REMEDY,
    SUMMARY_FILE,
    Evaluation,
    Examples,
    Summary,
)
from eomt.utils.reading import read_json, read_text

SUMMARY, METRICS, CONFIG, LOG = "training_summary.json", "metrics.csv", "config.yaml", "training.log"
# the file that a test writes first; its other files share the beginning of the name
EVALUATION = "_eval.json"
# lines of the log that a page shows
LOG_LINES = 200
# steps are numbers that a plot can divide
MOST_STEPS = 2**53

Found = TypeVar("Found")


@dataclass
class Run:
    """What the files of a run say.

    Attributes:
        folder: Of the run.
        summary: Written when training ends, or is interrupted; None while there is none.
        metrics: Figures by step and name, steps rising; without those that are not finite.
        evaluation: Of the newest test of trained weights, or else of the base; None without a test.
        results: Path with which the names of that test's files begin.
        examples: Images of that test.
        config: Lines of the configuration.
        log: The last lines of the log.
        missing: Sentences about what is not there or cannot be read.
    """

    folder: Path
    summary: Summary | None = None
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    results: Path | None = None
    examples: Examples | None = None
    config: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str | None:
        """The figure that selects the best step; of a run that has not ended, as its checkpoint is named."""
        return self.summary["metric"] if self.summary is not None else self._named[0]

    @property
    def best_step(self) -> int | None:
        """The best step so far."""
        return self.summary["best_step"] if self.summary is not None else self._named[1]

    @property
    def lower_is_better(self) -> bool | None:
        """Whether the best value of the figure is the lowest; None where no file says it."""
        mode = self.summary.get("mode") if self.summary is not None else None
        return None if mode is None else mode == "min"

    @property
    def baseline(self) -> float | None:
        """The figure at step 0."""
        if self.summary is not None:
            return self.summary["baseline"]
        return self.metrics.get(0, {}).get(self.metric or "")

    @property
    def best(self) -> float | None:
        """The best figure so far."""
        if self.summary is not None:
            return self.summary["best"]
        return None if self.best_step is None else self.metrics.get(self.best_step, {}).get(self.metric or "")

    @property
    def tested(self) -> float | None:
        """The same figure on test images, of trained weights."""
        if self.evaluation is None or self.metric is None or not self.evaluation["weights"]:
            return None
        return self.evaluation["metrics"].get(as_tested(self.metric))

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return steps and values of a figure."""
        return [(step, row[name]) for step, row in self.metrics.items() if name in row]

    @property
    def _named(self) -> tuple[str | None, int | None]:
        """Return figure and step that stand in the name of the best checkpoint."""
        known = {name.removeprefix("val_") for row in self.metrics.values() for name in row if name.startswith("val_")}
        for file in sorted(self.folder.glob("best_lora_step*.ckpt")):
            if found := re.match(r"best_lora_step(\d{1,12})_(.+)", file.name):
                begin = [name for name in known if re.match(rf"{re.escape(name)}-?\d", found[2])]
                if begin:
                    return f"val_{max(begin, key=len)}", int(found[1])
        return None, None


def as_tested(metric: str) -> str:
    """Return how the figure of a validation is called in a test."""
    return metric.replace("val_", "test_")


def is_run(folder: Path) -> bool:
    """Return whether a folder holds what a run writes: a summary, figures, a log or results.

    Raises:
        UserError: If it may not be looked into.
    """
    try:
        return any((folder / name).is_file() for name in (SUMMARY, METRICS, LOG)) or bool(result_files(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); give the folder of a run") from error


def newest_run(root: Path) -> Path:
    """Return `root` itself if it is a run that has ended, else the run in it that ended last.

    Raises:
        UserError: If there is none.
    """
    if (root / SUMMARY).is_file():
        return root
    runs = sorted(root.glob(f"*/{SUMMARY}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"{root}: holds no run that has ended; give a run, or a folder of runs")
    return runs[-1].parent


def result_files(folder: Path) -> list[Path]:
    """Return the files with the figures of each test of a run, the newest last."""
    again = "_again"
    files = (folder / "results").glob(f"*{EVALUATION}")
    return sorted(files, key=lambda file: (file.name.replace(again, "").encode(errors="replace"), len(file.name)))


def read_summary(folder: Path) -> Summary:
    """Return the summary of a run.

    Raises:
        UserError: If there is none, or it is none.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise UserError(f"{folder}: holds no {SUMMARY}; give the folder of a run that has ended")
    return read_json(path, SUMMARY_FILE, REMEDY)


def read_evaluation(folder: Path) -> tuple[Path, Evaluation] | None:
    """Return file and figures of the newest test of trained weights, else of the newest one; None without a test.

    Raises:
        UserError: If a file cannot be read.
    """
    found = [(file, read_json(file, EVALUATION_FILE, REMEDY)) for file in result_files(folder)]
    # an evaluation without weights measured the base
    trained = [pair for pair in found if pair[1]["weights"]]
    return (trained or found)[-1] if found else None


def read_metrics(file: Path) -> dict[int, dict[str, float]]:
    """Return figures by step and name; without those that are not finite, which have no place in a plot.

    Raises:
        UserError: If the file is no table of a run.
    """
    rows: dict[int, dict[str, float]] = {}
    try:
        for row in csv.DictReader(io.StringIO(read_text(file, REMEDY), newline="")):
            step = int(row.pop("step"))
            if not 0 <= step < MOST_STEPS:
                raise ValueError(f"step {step}")
            figures = {name: float(value) for name, value in row.items() if name and value}
            rows.setdefault(step, {}).update({name: x for name, x in figures.items() if math.isfinite(x)})
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: is no table of a run ({str(error)[:60]!r}); {REMEDY}") from error
    return dict(sorted(rows.items()))


def read_run(folder: Path) -> Run:
    """Return what there is of a run; what is damaged is said in its `missing`.

    Raises:
        UserError: If the folder is none of a run.
    """
    if not is_run(folder):
        found = "is a file" if folder.is_file() else "holds no run" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder}: {found}; give the folder of a run")
    run = Run(folder)
    missing = run.missing

    def read(name: str, reader: Callable[[Path], Found], otherwise: str) -> Found | None:
        try:
            if not (folder / name).exists():
                missing.append(otherwise)
                return None
            return reader(folder / name)
        except UserError as error:
            missing.append(f"{name} cannot be used: {str(error).removeprefix(f'{folder}/')}.")
        except OSError as error:
            missing.append(f"{name} cannot be read ({error.strerror}).")
        return None

    run.summary = read(SUMMARY, lambda _: read_summary(folder), "Training has not ended: there is no summary.")
    run.metrics = read(METRICS, read_metrics, "There are no curves: no step of a training was recorded.") or {}
    run.config = read(CONFIG, _lines, "The configuration was not kept.") or []
    run.log = (read(LOG, _lines, "There is no log of a training.") or [])[-LOG_LINES:]
    if not result_files(folder):
        missing.append("It has not been tested: there are no test figures and no examples.")
    elif evaluated := read("results", lambda _: read_evaluation(folder), ""):
        file, run.evaluation = evaluated
        run.results = file.with_name(file.name.removesuffix(EVALUATION))
        details = f"results/{run.results.name}_examples/examples.json"
        run.examples = read(details, _examples, "The test kept no examples.")
    return run


def _lines(file: Path) -> list[str]:
    return read_text(file, REMEDY).splitlines()


def _examples(file: Path) -> Examples:
    return read_json(file, EXAMPLES_FILE, REMEDY)


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
