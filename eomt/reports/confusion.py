"""What was taken for what: confusion matrices, from the tables that a test writes."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eomt.errors import UserError
from eomt.reports.run_files import Run
from eomt.reports.schemas import REMEDY
from eomt.utils.reading import read_text

# endings of the tables of a test
CLASSES, SCORES, ANSWERS = "_confusion.csv", "_scores.csv", "_answers.csv"
# heads of the first column of a table of classes, of pixels and of images; no class is called so
TRUTH, TRUTH_OF_IMAGES = "truth \\ prediction", "true image \\ prediction"
# classes of a matrix; of more, only the largest confusions are listed
MOST_CLASSES = 20
# of these
MOST_PAIRS = 20
# matrices on a page, and answers of a type of question that get a row
MOST_MATRICES, MOST_ANSWERS = 6, 8
# a column for all that is not worth one
OTHERS = "(another)"
# steps of the shading
LEVELS = 10


@dataclass(frozen=True)
class Cell:
    """A count, its share of the row's truth in percent, and its shade from 0 to `LEVELS`."""

    count: int
    share: str
    level: int
    is_right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix; with many classes `rows` is empty, and `pairs` has the largest confusions.

    Attributes:
        title: Above it; "" where there is only one.
        caption: What is counted.
        columns: What was predicted.
        rows: What was true, and its cells.
        pairs: Truth, prediction, count and share of the truth, the largest share first.
    """

    title: str
    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    pairs: list[tuple[str, str, int, str]]


def matrices(run: Run) -> list[Matrix]:
    """Return the confusion matrices of the newest test, none where it has no tables for them.

    Raises:
        UserError: If a table is damaged.
    """
    if run.results is None:
        return []
    found: list[Matrix] = []
    for ending, read in ((CLASSES, _of_classes), (SCORES, _of_scores), (ANSWERS, _of_answers)):
        file = run.results.with_name(run.results.name + ending)
        if file.is_file():
            try:
                found += read(file, run)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{file}: is no table of a test ({str(error)[:60]!r}); {REMEDY}") from error
    return found[:MOST_MATRICES]


def _rows(file: Path) -> Iterator[dict[str, str]]:
    for row in csv.DictReader(io.StringIO(read_text(file, REMEDY), newline="")):
        if None in row or None in row.values():
            raise ValueError("a row of another length")
        yield row


def _of_classes(file: Path, run: Run) -> list[Matrix]:
    """Return the matrix of a table whose rows are the truth."""
    counts: dict[tuple[str, str], int] = {}
    truths: list[str] = []
    is_of_images = False
    for row in _rows(file):
        is_of_images = TRUTH_OF_IMAGES in row
        truth = row.pop(TRUTH_OF_IMAGES if is_of_images else TRUTH)
        truths.append(truth)
        counts |= {(truth, name): int(count) for name, count in row.items()}
    caption = "test images" if is_of_images else "pixels of the test images"
    return [_matrix("", caption, truths, truths, counts, dict(zip(truths, truths, strict=True)))]


def _of_scores(file: Path, run: Run) -> list[Matrix]:
    """Return a matrix for each data set: bona fide images and each attack, at the threshold of validation."""
    threshold = run.evaluation["metrics"].get("test_threshold") if run.evaluation is not None else None
    if threshold is None:
        return []
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for row in _rows(file):
        truth = f"morph: {row['attack']}" if int(row["label"]) else "bona fide"
        decision = "morph" if float(row["score"]) >= threshold else "bona fide"
        counts.setdefault(row["dataset"], Counter())[truth, decision] += 1
    caption = f"test images at the threshold {threshold:.4f}, which validation chose"
    return [
        _matrix(
            dataset if len(counts) > 1 else "",
            caption,
            truths := sorted({truth for truth, _ in found}, key=lambda truth: (truth != "bona fide", truth)),
            ["bona fide", "morph"],
            found,
            {truth: "bona fide" if truth == "bona fide" else "morph" for truth in truths},
        )
        for dataset, found in sorted(counts.items())
    ]


def _of_answers(file: Path, run: Run) -> list[Matrix]:
    """Return a matrix for each type of question, of its most frequent true answers."""
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for row in _rows(file):
        counts.setdefault(row["type"], Counter())[row["answer"], row["predicted"]] += 1
    found = []
    for kind, pairs in sorted(counts.items()):
        total: Counter[str] = Counter()
        for (truth, _), count in pairs.items():
            total[truth] += count
        shown = [answer for answer, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:MOST_ANSWERS]]
        kept: Counter[tuple[str, str]] = Counter()
        for (truth, answer), count in pairs.items():
            if truth in shown:
                kept[truth, answer if answer in shown else OTHERS] += count
        columns = [*shown, OTHERS] if any(answer == OTHERS for _, answer in kept) else shown
        known = sum(total[answer] for answer in shown)
        caption = f"questions; the {len(shown)} most frequent of {len(total)} true answers, {known} of {total.total()}"
        rights = dict(zip(shown, shown, strict=True))
        found.append(_matrix(kind or "questions", caption, shown, columns, kept, rights))
    return found


def _matrix(
    title: str,
    caption: str,
    truths: Sequence[str],
    columns: Sequence[str],
    counts: Mapping[tuple[str, str], int],
    rights: Mapping[str, str],
) -> Matrix:
    """Return a matrix.

    Args:
        title: See `Matrix`.
        caption: See `Matrix`.
        truths: Names of the rows.
        columns: Names of the columns.
        counts: Of pairs of both; none is 0.
        rights: The column that is right for each row.
    """
    totals = {truth: max(1, sum(counts.get((truth, name), 0) for name in columns)) for truth in truths}

    def share(truth: str, name: str) -> float:
        return counts.get((truth, name), 0) / totals[truth]

    if len(truths) > MOST_CLASSES:
        wrong = [(t, name) for t in truths for name in columns if name != rights[t] and counts.get((t, name), 0) > 0]
        wrong.sort(key=lambda pair: (-share(*pair), pair))
        listed = [(t, name, counts[t, name], _percent(share(t, name))) for t, name in wrong[:MOST_PAIRS]]
        return Matrix(title, caption, [], [], listed)
    rows = []
    for truth in truths:
        shares = [(name, share(truth, name)) for name in columns]
        cells = [
            Cell(counts.get((truth, name), 0), _percent(part), round(LEVELS * part), name == rights[truth])
            for name, part in shares
        ]
        rows.append((truth, cells))
    return Matrix(title, caption, list(columns), rows, [])


def _percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.1f}"
