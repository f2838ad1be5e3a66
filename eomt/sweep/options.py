"""The options of a sweep, checked before anything is computed."""

import re
from dataclasses import dataclass

from eomt.errors import UserError, shortened

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# what rates must be
RATES = "numbers above 0 with commas, such as 3e-4,1e-3"


@dataclass(frozen=True)
class Budget:
    """What a sweep may take.

    Attributes:
        seconds: From its start; None for any time.
        trials: Number of trainings; None for any.
    """

    seconds: float | None = None
    trials: int | None = None

    @classmethod
    def of_text(cls, text: str | int | None) -> "Budget":
        """Return the budget that a text names: a time such as 30m or 1.5h, or a number of trials.

        Raises:
            UserError: It names none.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(text).strip())
        if found is None or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
            raise UserError(
                f"budget: {shortened(str(text))!r}; must be a time, such as 30m, or a number of trials, such as 20"
            )
        return cls(seconds=float(found[1]) * UNITS[found[2]]) if found[2] else cls(trials=int(found[1]))


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked for.

    Attributes:
        budget: What it may take.
        folds: Number of folds, or seeds where the data's split is given, with which each way's best is measured.
        ways: Names of the ways; None for all.
        rates: Learning rates of every way; None for each way's own, which are added to at their ends.
        grid: `FIELD=V1,V2` of other fields.
        workers: Trainings at a time; None takes one for each GPU, or else for each core.
        learning_curve: Whether the winner is trained on a quarter and on half of the images, too.
        launcher: Where trainings run, local or ray.
    """

    budget: Budget = Budget()
    folds: int = 3
    ways: tuple[str, ...] | None = None
    rates: tuple[float, ...] | None = None
    grid: tuple[str, ...] = ()
    workers: int | None = None
    learning_curve: bool = False
    launcher: str = "local"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise UserError(f"folds: {self.folds}; must be at least 2, or there is nothing to compare")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers: {self.workers}; must be at least 1")


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Return names of ways with commas between them; None for none.

    Raises:
        UserError: There is no name.
    """
    return None if text is None else _words(text, "ways", "names of ways with commas, such as heads,full")


def rates_of(text: str | None) -> tuple[float, ...] | None:
    """Return learning rates with commas between them, rising; None for none.

    Raises:
        UserError: One is no number above 0, or there is none.
    """
    return None if text is None else tuple(sorted({_rate(word) for word in _words(text, "rates", RATES)}))


def _words(text: str, option: str, wanted: str) -> tuple[str, ...]:
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise UserError(f"{option}: {shortened(text)!r}; must be {wanted}")
    return found


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"rates: {shortened(text)!r}; must be {RATES}")
    return value
