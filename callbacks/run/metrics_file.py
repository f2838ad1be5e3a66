"""A CSV file of metrics by step, which continues after a resume."""

import csv
import time
from pathlib import Path

from eomt.errors import UserError
from eomt.utils.files import write_file

# seconds without writing for each second of writing: long files take about a hundredth of the run
PAUSE = 100


class MetricsFile:
    """A table of metrics by step. Each `save` writes the whole file, so new columns can appear at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, str | float]] = []
        self._next_save = 0.0

    def resume(self, step: int) -> None:
        """Read the rows on disk up to `step`, at which the run resumes.

        Raises:
            UserError: If the file is not what a run writes; it is left as it is.
        """
        if self.path.is_file():
            try:
                with self.path.open(newline="", encoding="utf-8") as file:
                    self.rows = [dict(row) for row in csv.DictReader(file) if int(row["step"]) <= step]
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise UserError(
                    f"{self.path}: is no table of a run ({str(error)[:60]!r}); repair it, or move it away"
                ) from error

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Add figures to the row of `step`."""
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1].update(figures)

    def save_if_due(self) -> None:
        """Write the file, unless it was written a moment ago, for whoever follows the run."""
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Write the file, with columns in the order in which they first appeared."""
        start = time.monotonic()
        columns = list(dict.fromkeys(name for row in self.rows for name in row))

        def write(beside: Path) -> None:
            with beside.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)

        write_file(self.path, write)
        end = time.monotonic()
        self._next_save = end + PAUSE * (end - start)
