"""What a classifier said of an image, beside the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eomt.results import ClassificationResult

NOTHING = "(no label)"


@dataclass(frozen=True)
class ClassAnswer:
    """An answer.

    Attributes:
        truth: Name of the class; of several labels all, with "|" between them.
        label: The answer alike.
        confidence: Probability that the network gave to its answer; of several labels, to the most doubtful part of it.
        of_truth: Probability that it gave to the truth; of several labels, to the worst part of it.
    """

    truth: str
    label: str
    confidence: float
    of_truth: float

    @property
    def is_right(self) -> bool:
        """Whether the answer is the truth."""
        return self.truth == self.label

    @classmethod
    def of(cls, probabilities: Tensor, label: Tensor, names: Sequence[str], several: bool) -> "ClassAnswer":
        """Return the answer on an image.

        Args:
            probabilities: `(C,)`.
            label: Id of the class, `()`; of several labels 0 and 1, `(C,)`.
            names: Of the classes.
            several: Whether there may be several labels.
        """
        values = probabilities.float().cpu().numpy()
        result = ClassificationResult(np.empty((0, 0, 3), np.uint8), values, names, several)
        if not several:
            truth = int(label)
            return cls(names[truth], result.label, result.score, float(values[truth]))
        shown = label.cpu().numpy() > 0
        of_truth = np.where(shown, values, 1 - values).min()
        said = "|".join(name for name, is_shown in zip(names, shown, strict=True) if is_shown)
        confidence = np.maximum(values, 1 - values).min()
        return cls(said or NOTHING, result.label or NOTHING, float(confidence), float(of_truth))
