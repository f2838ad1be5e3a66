"""Which figures of a run belong together: the watched one, its trivial rivals, and those of classes and attacks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from eomt.reports.run_files import Run, as_tested

# what is measured beside a figure without training, by its name without "val_"
RIVALS: dict[str, dict[str, str]] = {
    "loss": {"loss_mean_patch": "the mean patch of each place"},
    "accuracy": {
        "majority_accuracy": "the most frequent answer",
        "question_only_accuracy": "answers from the question alone",
        "blank_accuracy": "the network on gray images",
        "class_mean_accuracy": "the nearest class mean of step 0",
    },
    "f1": {"majority_f1": "the most frequent class", "class_mean_f1": "the nearest class mean of step 0"},
    "iou": {"color_iou": "the most frequent class of each color", "place_iou": "the most frequent class of each place"},
    "eer": {"eer_sharpness": "sharpness alone", "eer_texture": "hand-made texture features"},
    "map": {
        "constant_map": "one answer for all images",
        "map_threshold": "components of a brightness threshold, not asked for classes",
    },
    "none_kaggle_dice": {"none_kaggle_dice_all_empty": "an answer without masks"},
}
# what the figure of a class is called, where it is not that of all classes
OF_CLASSES = {"map": "ap"}
# what the parts of a figure are, where they are no classes
TITLES = {"val_eer": "Attacks and data sets", "val_accuracy": "Types of questions"}
# of parts of a figure that a table shows; data sets may have any number of classes
MOST_PARTS = 300


@dataclass(frozen=True)
class Tile:
    """One large number: a label, the number as text, and a line below it."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Part:
    """A class, an attack or a type of question.

    Attributes:
        name: Of the part.
        cells: Texts below the columns of the table.
        bar: Share of the longest bar that the newest figure takes, 0 to 100; None without one.
        tick: Where step 0 stands on the same scale; None without it.
    """

    name: str
    cells: list[str]
    bar: float | None
    tick: float | None


@dataclass(frozen=True)
class Parts:
    """A table of the parts of a figure.

    Attributes:
        title: What the parts are.
        metric: The figure.
        columns: Heads of the cells.
        shown: Which column the bars show, in words.
        rows: The parts, at most `MOST_PARTS`.
        left_out: How many more there are.
    """

    title: str
    metric: str
    columns: list[str]
    shown: str
    rows: list[Part]
    left_out: int


def figure_text(value: float | None) -> str:
    """Return a figure for people."""
    return "-" if value is None else f"{value:.4f}"


def rivals(run: Run) -> dict[str, str]:
    """Return what stands beside the figure of a run: names of validation figures, and what each is.

    They are those that the notes of the run name, and the known rivals of its figure that it measured.
    """
    metric = run.metric
    if metric is None:
        return {}
    known = {f"val_{name}": words for name, words in RIVALS.get(metric.removeprefix("val_"), {}).items()}
    measured = {name for row in run.metrics.values() for name in row}
    tested = run.evaluation["metrics"].keys() if run.evaluation is not None else set()
    found = {name: words for name, words in known.items() if name in measured or as_tested(name) in tested}
    for note in notes(run):
        for name in re.findall(r"\b(?:val|test)_\w{1,80}", note):
            name = re.sub("^test_", "val_", name)
            if name != metric and (name in measured or as_tested(name) in tested) and "_iou" in name + metric:
                found.setdefault(name, "the prompt alone" if "prompt alone" in note else "see the note")
    return found


def notes(run: Run) -> list[str]:
    """Return what must be known beside the figures of a run, of its test if it has one."""
    own = run.summary.get("notes", []) if run.summary is not None else []
    if run.evaluation is not None and run.evaluation["weights"]:
        return run.evaluation.get("notes", own)
    return own


def tiles(run: Run) -> list[Tile]:
    """Return the numbers at the head of a page: step 0 beside the best step, the test, and the rivals."""
    metric = run.metric
    found = []
    if metric is not None:
        better = {True: "lower is better", False: "higher is better", None: ""}[run.lower_is_better]
        found.append(Tile("step 0", figure_text(run.baseline), f"{metric}, the base as it came"))
        step = "-" if run.best_step is None else f"{run.best_step:,}"
        found.append(Tile(f"best, step {step}", figure_text(run.best), ", ".join(filter(None, [metric, better]))))
        if run.tested is not None:
            found.append(Tile("test", figure_text(run.tested), as_tested(metric)))
    elif run.evaluation is not None:
        shown = list(run.evaluation["metrics"].items())[:4]
        found += [Tile(name, figure_text(value), "test") for name, value in shown]
    for words, value, is_tested in rival_values(run):
        found.append(Tile(words, figure_text(value), "to beat in the test" if is_tested else "to beat in validation"))
    return found


def rival_values(run: Run) -> list[tuple[str, float, bool]]:
    """Return in words each rival, its figure, and whether it is of the test; else it is of the best step."""
    found = []
    for name, words in rivals(run).items():
        tested = run.evaluation["metrics"].get(as_tested(name)) if run.evaluation is not None else None
        if tested is not None and run.tested is not None:
            found.append((words, tested, True))
        elif (values := dict(run.curve(name))) and run.best_step is not None:
            found.append((words, values.get(run.best_step, [*values.values()][-1]), False))
    return found


def rival_verdict(run: Run) -> str:
    """Return which rivals a run beats, and which it does not; "" where there are none, or nothing tells them apart."""
    if run.lower_is_better is None:
        return ""
    sentences: dict[str, list[str]] = {}
    for words, value, is_tested in rival_values(run):
        own = run.tested if is_tested else run.best
        if own is None:
            continue
        is_beaten = own < value if run.lower_is_better else own > value
        where = "In the test it" if is_tested else "It"
        begin = f"{where} beats" if is_beaten else f"{where} does not beat"
        sentences.setdefault(begin, []).append(f"{words} ({figure_text(value)})")
    # what it does not beat matters more
    begins = sorted(sentences, key=lambda begin: begin.endswith("beats"))
    return " ".join(
        f"{begin} {_joined(sentences[begin], 'and' if begin.endswith('beats') else 'or')}." for begin in begins
    )


def _joined(words: list[str], last: str) -> str:
    return " ".join(filter(None, [", ".join(words[:-1]), last if len(words) > 1 else "", words[-1]]))


def parts(run: Run) -> Parts | None:
    """Return the figure of each class, attack or type of question; None where there are none."""
    metric = run.metric or _tested_with_parts(run)
    if metric is None:
        return None
    step_0 = _of_parts(run.metrics.get(0, {}), metric)
    # where step 0 is the best one, it stands there already
    best = _of_parts(run.metrics.get(run.best_step, {}), metric) if run.best_step else {}
    figures = run.evaluation["metrics"] if run.evaluation is not None else {}
    measured = {name: value for name, value in figures.items() if value is not None}
    tested = _of_parts(measured, as_tested(metric))
    shown, words = next(
        ((of, words) for of, words in ((tested, "test"), (best, "best step"), (step_0, "step 0")) if of), ({}, "")
    )
    names = list(dict.fromkeys([*step_0, *best, *tested]))
    if not names:
        return None
    columns: dict[str, dict[str, str]] = {
        "step 0": {name: figure_text(value) for name, value in step_0.items()},
        f"best, step {run.best_step}": {name: figure_text(value) for name, value in best.items()},
        "test": {name: figure_text(value) for name, value in tested.items()},
        "95 % interval": _intervals(measured, as_tested(metric), names),
    }
    for rival, meaning in rivals(run).items():
        columns[meaning] = {name: figure_text(value) for name, value in _of_parts(measured, as_tested(rival)).items()}
    columns = {head: cells for head, cells in columns.items() if cells}
    longest = max([1.0, *shown.values(), *step_0.values()])
    rows = [
        Part(
            name,
            [cells.get(name, "-") for cells in columns.values()],
            _share(shown.get(name), longest),
            _share(step_0.get(name), longest) if shown is not step_0 else None,
        )
        for name in names[:MOST_PARTS]
    ]
    return Parts(TITLES.get(metric, "Classes"), metric, list(columns), words, rows, max(0, len(names) - MOST_PARTS))


def _of_parts(figures: Mapping[str, float], metric: str) -> dict[str, float]:
    """Return the figures of parts by the part's name: behind a stroke, or as prompted segmentation names classes."""
    stage, _, figure = metric.partition("_")
    own = f"{stage}_{OF_CLASSES.get(figure, figure)}/"
    found = {name.removeprefix(own): value for name, value in figures.items() if name.startswith(own)}
    if found or not (split := re.fullmatch(r"(val|test)_(iou|dice)", metric)):
        return found
    stage, figure = split.groups()
    # the mode whose figure is watched is the one with the same value
    for name, value in figures.items():
        if re.fullmatch(rf"{stage}_[a-z]+_{figure}", name) and value == figures.get(metric):
            prefix = f"{name}_class_"
            return {other.removeprefix(prefix): x for other, x in figures.items() if other.startswith(prefix)}
    return {}


def _tested_with_parts(run: Run) -> str | None:
    """Return the figure of a test that has parts, as validation would call it, where no training named one."""
    names = run.evaluation["metrics"] if run.evaluation is not None else {}
    whole = {of: figure for figure, of in OF_CLASSES.items()}
    parted = [name.partition("/")[0].partition("_") for name in names if "/" in name]
    metrics = [f"{stage}_{whole.get(figure, figure)}" for stage, _, figure in parted]
    return next((re.sub("^test_", "val_", metric) for metric in metrics if metric in names), None)


def _intervals(figures: Mapping[str, float], metric: str, names: list[str]) -> dict[str, str]:
    ends = [(name, figures.get(f"{metric}_low/{name}"), figures.get(f"{metric}_high/{name}")) for name in names]
    return {name: f"{low:.4f} to {high:.4f}" for name, low, high in ends if low is not None and high is not None}


def _share(value: float | None, longest: float) -> float | None:
    return None if value is None else round(100 * min(max(value / longest, 0.0), 1.0), 1)
