"""The one reader of CSV files."""

import csv
import io
from pathlib import Path

from eomt.errors import UserError
from eomt.utils.reading import read_text

DELIMITERS = (",", ";", "\t")
REMEDY = "save it as UTF-8 text with commas"


def read_table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV, whose cells are parted by commas, semicolons (as spreadsheets write them in many countries) or tabs.

    Args:
        file: Text in UTF-8.

    Returns:
        The columns' names; and the number of each row that is not blank (the header is row 1) with its cells. Spaces
        around names and cells are taken away.

    Raises:
        UserError: The file cannot be read, is empty, or is JSON.
    """
    text = read_text(file, REMEDY)
    start = next((line for line in io.StringIO(text) if line.strip()), "")
    if start.lstrip()[:1] in ("{", "["):
        raise UserError(f"{file}: is JSON; a CSV is needed, whose first row names the columns")
    try:
        # a header has names alone: the mark that stands there most often parts them
        delimiter = max(DELIMITERS, key=start.count)
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(read, start=1)]
    except csv.Error as error:
        raise UserError(f"{file}: cannot be read as CSV ({error}); {REMEDY}") from error
    rows = [(number, cells) for number, cells in rows if any(cells)]
    if not rows:
        raise UserError(f"{file}: is empty; the first row must name the columns")
    return rows[0][1], rows[1:]
