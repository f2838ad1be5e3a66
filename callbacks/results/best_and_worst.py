"""The few test images with the highest and the lowest figure, kept while all of them pass by."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from callbacks.results.tables import gather_rows

# pixels of a kept picture, which a page shows as a card
MOST_WIDTH = 480
QUALITY = 85


@dataclass(frozen=True)
class Drawn:
    """How an image is shown: a picture, and lines of text below it."""

    picture: Image.Image
    lines: list[str]


@dataclass(frozen=True)
class Candidate:
    """A test image; it is drawn only if it is kept.

    Attributes:
        name: Of the image or question.
        figure: How well it was answered; higher is better.
        draw: Returns how it is shown.
    """

    name: str
    figure: float
    draw: Callable[[], Drawn]


@dataclass(frozen=True)
class KeptExample:
    """A test image that is shown: its picture is a JPEG."""

    name: str
    figure: float
    jpeg: bytes
    lines: list[str]

    @property
    def rank(self) -> tuple[float, bytes]:
        """What examples are ordered by: among equals a hash of the name, which no order of files can change."""
        return _rank(self.name, self.figure)


class BestAndWorst:
    """Keeps `number` examples of each end of a figure, whatever the number of images.

    Args:
        number: How many at each end.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._best: list[KeptExample] = []
        self._worst: list[KeptExample] = []
        self._count = 0

    def offer(self, candidate: Candidate) -> None:
        """Keep an image if it is among the best or the worst so far."""
        self._count += 1
        rank = _rank(candidate.name, candidate.figure)
        is_good = len(self._best) < self.number or rank > self._best[-1].rank
        is_bad = len(self._worst) < self.number or rank < self._worst[-1].rank
        if is_good or is_bad:
            drawn = candidate.draw()
            kept = KeptExample(candidate.name, candidate.figure, jpeg(drawn.picture), drawn.lines)
            if is_good:
                self._best = self._cut([*self._best, kept], best=True)
            if is_bad:
                self._worst = self._cut([*self._worst, kept], best=False)

    def gathered(self) -> tuple[list[KeptExample], list[KeptExample]]:
        """Return the best and the worst of all processes, which must all call this; no example is in both."""
        best = self._cut(_once(gather_rows(self._best)), best=True)
        worst = self._cut(_once(gather_rows(self._worst)), best=False)
        count = sum(gather_rows([self._count]))
        # of a few images, each is in the half that it belongs to
        return best[: (count + 1) // 2], worst[: count // 2]

    def _cut(self, examples: Sequence[KeptExample], best: bool) -> list[KeptExample]:
        return sorted(examples, key=lambda example: example.rank, reverse=best)[: self.number]


def jpeg(picture: Image.Image) -> bytes:
    """Return a picture, small enough for a page, as JPEG."""
    if picture.width > MOST_WIDTH:
        size = (MOST_WIDTH, max(1, round(picture.height * MOST_WIDTH / picture.width)))
        picture = picture.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=QUALITY)
    return file.getvalue()


def _rank(name: str, figure: float) -> tuple[float, bytes]:
    return figure, hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _once(examples: Sequence[KeptExample]) -> list[KeptExample]:
    """Return examples without those that two processes saw."""
    found: dict[Any, KeptExample] = {example.rank: example for example in examples}
    return list(found.values())
