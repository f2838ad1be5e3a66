"""Rows of a result: from all processes, and into files beside the figures."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Trainer

from callbacks.run.run_summary import RunSummary
from eomt.errors import UserError
from eomt.utils.distributed import gather
from eomt.utils.files import write_file
from eomt.utils.trainer import callbacks_of

Row = TypeVar("Row")


def gather_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of all processes, one process after the other; all of them must call it."""
    return [row for part in gather(rows) for row in part]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV, UTF-8, whole or not at all.

    Raises:
        UserError: The folder cannot be written to.
    """

    def write(beside: Path) -> None:
        # data modules of others may give names that are no text: not all rows are lost for one of them
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)


def file_of_test(trainer: Trainer, who: str, ending: str) -> Path:
    """Return the path of a file that belongs to the test that just ended.

    Args:
        trainer: That tested.
        who: Name of the callback that asks.
        ending: What the file's name ends with, behind the time that all files of a test share.

    Raises:
        UserError: No RunSummary stands before `who`.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, RunSummary) and callback.results is not None:
            return callback.results.with_name(callback.results.name.replace("_eval.json", f"_{ending}"))
    raise UserError(f"callbacks: {who} needs a RunSummary before it; add callbacks.RunSummary to the list")
