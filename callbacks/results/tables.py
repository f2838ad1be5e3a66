"""Rows of a result: from all processes, and into files beside the figures."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed
from lightning.pytorch import Trainer

from callbacks.run.run_summary import RunSummary
from eomt.errors import UserError
from eomt.utils.files import write_file


def gathered(values: list[Any]) -> list[Any]:
    """What all processes hold, one after the other."""
    if not torch.distributed.is_initialized():
        return values
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def write_table(path: Path, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV, UTF-8, whole or not at all.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)


def stem_of_results(trainer: Trainer, who: str) -> Path:
    """The path that the names of all files of this test begin with.

    Raises:
        UserError: if no RunSummary stands before `who`, the callback that asks.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunSummary) and callback.results is not None:
            return callback.results.with_name(callback.results.name.removesuffix("_eval.json"))
    raise UserError(f"callbacks: {who} needs a RunSummary before it")
