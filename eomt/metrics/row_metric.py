"""What metrics share whose figures are made of a row for each sample."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from eomt.utils.distributed import gather

# a tuple, or another type whose values can be ordered, compared and pickled
Row = TypeVar("Row", bound=Any)


class RowMetric(ABC, Generic[Row]):
    """Rows of samples, put together from all processes when figures are computed.

    A sample counts once, however often and in however many processes it was given, so that figures do not depend on the
    order of samples, on batches or on the number of processes, to the last digit.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @staticmethod
    @abstractmethod
    def key(row: Row) -> Hashable:
        """Return what tells the sample of a row from all others."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the figures of everything that was given so far, in all processes; nan where there is nothing."""

    def reset(self) -> None:
        """Forget everything."""
        self.rows = []

    def collected(self) -> list[Row]:
        """Return the rows of all processes, which must all call it, in order; each sample once."""
        # of several rows of a sample the least is kept, so that which process had it does not matter
        first: dict[Hashable, Row] = {}
        for row in sorted(row for rows in gather(self.rows) for row in rows):
            first.setdefault(self.key(row), row)
        return list(first.values())
