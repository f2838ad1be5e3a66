"""One table for two layouts of the same tensors, applied forwards and backwards."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PLACEHOLDERS = {"#": r"(\d+)", "*": r"([^.]+)"}
# a choice of spellings, or a placeholder
SPECIAL = re.compile(r"(\([^)]*\)|[#*])")
ENDING = r"(\.weight|\.bias|)"
SUM, COPIES = " + ", " = "


class RenamingTable:
    """Rows of two names, with two or more spaces between them: a tensor in one layout and in another.

    In a name `#` stands for a number and `*` for a dotted part, or for a piece of one; both names of a row hold them in
    the same order. `(a|b)` are spellings of which every one is read and the first is written. `a + b` are tensors that
    the other layout holds as one, along their first dimension. `a = b` are copies of one tensor, any of which is read.
    What follows a name (`.weight`, `.bias`) is kept. The first row that fits a name is taken.

    Args:
        rows: The table, a row a line; empty lines are passed over.
        strict: Refuse names that no row has; else they stay as they are.
    """

    def __init__(self, rows: str, strict: bool = False) -> None:
        self.strict = strict
        columns = [re.split(r"\s{2,}", row.strip()) for row in rows.splitlines() if row.strip()]
        self.rows = [(Column.parse(left), Column.parse(right)) for left, right in columns]

    def forwards(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the names on the left with those on the right.

        Tensors that stand for one are renamed only where all of them are there.

        Raises:
            KeyError: If the table is strict, for a name that is in no row, or is missing in a sum.
        """
        return self._rename(state, self.rows)

    def backwards(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the names on the right with those on the left; see `forwards`."""
        return self._rename(state, [(right, left) for left, right in self.rows])

    def holds(self, name: str) -> bool:
        """Return whether some row has a name, on either side."""
        return any(column.find(name) is not None for row in self.rows for column in row)

    def _rename(self, state: Mapping[str, Tensor], rows: "list[tuple[Column, Column]]") -> dict[str, Tensor]:
        """Return a state dict in the second names of these rows instead of the first."""
        renamed: dict[str, Tensor] = {}
        # of a row and what its placeholders stand for: the tensors that were found, by their place in the name
        found: dict[tuple[int, tuple[str, ...]], dict[int, str]] = {}
        for name in state:
            for number, (old, _) in enumerate(rows):
                if match := old.find(name):
                    found.setdefault((number, match.values), {})[match.place] = name
                    break
            else:
                if self.strict:
                    raise KeyError(name)
                renamed[name] = state[name]
        for (number, values), names in found.items():
            old, new = rows[number]
            if not old.copies and len(names) < len(old.names):
                if self.strict:
                    raise KeyError(next(name for place, name in enumerate(old.fill(values)) if place not in names))
                renamed |= {name: state[name] for name in names.values()}
                continue
            tensors = [state[names[place]] for place in sorted(names)]
            whole = tensors[0] if old.copies or len(tensors) == 1 else torch.cat(tensors)
            renamed |= zip(new.fill(values), new.divide(whole), strict=True)
        return renamed


@dataclass(frozen=True)
class Match:
    """Where a name was found in a column.

    Attributes:
        place: Of the name, among several.
        values: What its placeholders stand for, and its ending.
    """

    place: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One side of a row.

    Attributes:
        names: Templates of what is written.
        patterns: What is read, one for each name.
        copies: Whether several names are copies, and not parts, of one tensor.
    """

    names: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    copies: bool

    @classmethod
    def parse(cls, text: str) -> "Column":
        """Read one side of a row."""
        names = re.split(re.escape(SUM) + "|" + re.escape(COPIES), text)
        templates, patterns = zip(*map(_compile, names), strict=True)
        return cls(templates, patterns, COPIES in text)

    def find(self, name: str) -> Match | None:
        """Return where a name is in the column; None if it is not."""
        for place, pattern in enumerate(self.patterns):
            if match := pattern.fullmatch(name):
                return Match(place, match.groups())
        return None

    def fill(self, values: tuple[str, ...]) -> list[str]:
        """Return the names with `values` in place of their placeholders and endings."""
        return [name.format(*values) for name in self.names]

    def divide(self, whole: Tensor) -> list[Tensor]:
        """Return a tensor for each name: its copies, or its parts along the first dimension."""
        if self.copies:
            return [whole, *(whole.clone() for _ in self.names[1:])]
        return [whole] if len(self.names) == 1 else list(whole.chunk(len(self.names)))


def _compile(name: str) -> tuple[str, re.Pattern[str]]:
    """Return the template that a name is written by, and the pattern that it is read by."""
    template = pattern = ""
    for piece in SPECIAL.split(name):
        if piece in PLACEHOLDERS:
            template, pattern = template + "{}", pattern + PLACEHOLDERS[piece]
        elif piece.startswith("("):
            spellings = piece[1:-1].split("|")
            template, pattern = template + spellings[0], pattern + f"(?:{'|'.join(map(re.escape, spellings))})"
        else:
            template, pattern = template + piece, pattern + re.escape(piece)
    return template + "{}", re.compile(pattern + ENDING)
