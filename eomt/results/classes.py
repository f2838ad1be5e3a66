"""Which class an image is of, or which labels it has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eomt.results.answers import with_text
from eomt.results.result import Result

# of a label, where an image may have several
THRESHOLD = 0.5
SEPARATOR = "|"
# classes that a picture names
MOST_SHOWN = 3


@dataclass(repr=False)
class ClassificationResult(Result):
    """The probability of each class.

    Args:
        probabilities: Of the classes, fp32 `(C,)`; they sum to 1, but for `multi_label`.
        class_names: By class id.
        multi_label: Whether the image may have any number of them.
    """

    probabilities: np.ndarray
    class_names: Sequence[str]
    multi_label: bool = False

    @property
    def label(self) -> str:
        """Name of the likeliest class; of several labels those from probability 0.5 on, with "|" between them."""
        return SEPARATOR.join(self.labels)

    @property
    def labels(self) -> list[str]:
        """The likeliest class alone; of several labels those from probability 0.5 on, maybe none."""
        if not self.multi_label:
            return [self.class_names[int(self.probabilities.argmax())]]
        return [name for name, value in zip(self.class_names, self.probabilities, strict=True) if value >= THRESHOLD]

    @property
    def score(self) -> float:
        """Probability of the likeliest class."""
        return float(self.probabilities.max())

    def ranked(self) -> list[tuple[str, float]]:
        """Return the classes and their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.class_names[index], float(self.probabilities[index])) for index in order]

    def draw(self) -> Image.Image:
        """Return the image with its likeliest classes below it."""
        return with_text(self.image, [f"{name} {value:.3f}" for name, value in self.ranked()[:MOST_SHOWN]])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: file, label, score, and the probability of each class."""
        values = (float(value) for value in self.probabilities)
        found = {f"probability of {name}": value for name, value in zip(self.class_names, values, strict=True)}
        return [{"file": self.name, "label": self.label, "score": self.score} | found]

    def _said(self) -> str:
        return f"{self.label or 'no label'} {self.score:.3f}"
