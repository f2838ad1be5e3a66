"""Tables as plain lines of text, for logs and for what a command prints."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# rows are never cut or wrapped
WIDTH = 10_000


def text_table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), min_width: int = 0) -> list[str]:
    """Return rows as indented lines whose cells are aligned, two spaces apart.

    Args:
        rows: Cells, as many in each row.
        numbers: Columns that are aligned on the right, from 0.
        min_width: Of these columns, in characters.
    """
    if not rows:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(len(rows[0])):
        is_number = column in numbers
        table.add_column(
            justify="right" if is_number else "left", min_width=min_width if is_number else None, no_wrap=True
        )
    for row in rows:
        # as Text, since brackets in a str are Rich's markup
        table.add_row(*map(Text, row))
    file = io.StringIO()
    Console(file=file, width=WIDTH, color_system=None).print(table)
    return [f"  {line}".rstrip() for line in file.getvalue().splitlines()]


def size_text(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
