"""Component-level metrics of anomaly segmentation, as SegmentMeIfYouCan defines them.

Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation", NeurIPS 2021 Datasets and Benchmarks. Components
are 8-connected. A true component's sIoU is the part of it that is predicted, over it and all predicted components that
touch it, except for their pixels in other true components. A predicted component's PPV is the part of it that is truly
anomalous. At a threshold t true components with sIoU >= t are found, others missed, and predicted ones with PPV < t are
false; F1* is the mean of F1 over t = 0.25, 0.30, ..., 0.75.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from eomt.utils.labels import IGNORE_INDEX

THRESHOLDS = np.linspace(0.25, 0.75, 11)
EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


class ComponentSizes(NamedTuple):
    """The smallest components that count, in pixels: smaller predicted ones are dropped, smaller true ones ignored."""

    predicted: int
    true: int


ANOMALY_TRACK = ComponentSizes(500, 100)
OBSTACLE_TRACK = ComponentSizes(50, 10)


class ComponentCounts(NamedTuple):
    """What adds up over images and processes."""

    siou: float  # sum over the true components
    num_true: int
    ppv: float  # sum over the predicted components
    num_predicted: int
    found: np.ndarray  # (11,), true components per threshold
    false: np.ndarray  # (11,), predicted components per threshold

    def plus(self, other: "ComponentCounts") -> "ComponentCounts":
        """Return both together."""
        return ComponentCounts(
            self.siou + other.siou,
            self.num_true + other.num_true,
            self.ppv + other.ppv,
            self.num_predicted + other.num_predicted,
            self.found + other.found,
            self.false + other.false,
        )

    def figures(self) -> dict[str, float]:
        """Return `siou` and `ppv`, means over the components, and `f1`, which is F1*; nan where there are none."""
        missed = self.num_true - self.found
        denominator = 2 * self.found + missed + self.false
        known = bool(self.num_true or self.num_predicted)
        return {
            "siou": self.siou / self.num_true if self.num_true else np.nan,
            "ppv": self.ppv / self.num_predicted if self.num_predicted else np.nan,
            "f1": float((2 * self.found / denominator.clip(min=1)).mean()) if known else np.nan,
        }


NO_COMPONENTS = ComponentCounts(0.0, 0, 0.0, 0, np.zeros(len(THRESHOLDS), int), np.zeros(len(THRESHOLDS), int))


def count_components(predicted: np.ndarray, truth: np.ndarray, sizes: ComponentSizes) -> ComponentCounts:
    """Compare the components of one image.

    Args:
        predicted: Whether a pixel is called anomalous, bool `(H, W)`.
        truth: `(H, W)`, 1 = anomalous, 0 = not, 255 = ignored.
        sizes: The smallest components that count.
    """
    true_labels, true_sizes = _components(truth == 1)
    labels, found_sizes = _components(predicted & (truth != IGNORE_INDEX))
    true_kept, kept = true_sizes >= sizes.true, found_sizes >= sizes.predicted
    true_kept[0] = kept[0] = True  # the background
    # pixels of true components that are too small count neither as background nor as anomaly
    counted = (truth != IGNORE_INDEX) & true_kept[true_labels]
    rows = (np.cumsum(true_kept) - 1)[true_labels[counted]]
    columns = np.where(kept, np.cumsum(kept) - 1, 0)[labels[counted]]
    num_true, num_columns = int(true_kept.sum()), int(kept.sum())
    pixels = np.bincount(rows * num_columns + columns, minlength=num_true * num_columns).reshape(-1, num_columns)

    overlap = pixels[1:, 1:]  # (true, predicted)
    around = (overlap > 0) @ pixels[0, 1:]
    siou = overlap.sum(axis=1) / (pixels[1:].sum(axis=1) + around)
    sizes_left = pixels[:, 1:].sum(axis=0)
    # a predicted component may lie in what does not count altogether
    ppv = overlap.sum(axis=0)[sizes_left > 0] / sizes_left[sizes_left > 0]
    found = (siou[:, None] >= THRESHOLDS).sum(axis=0)
    false = (ppv[:, None] < THRESHOLDS).sum(axis=0)
    return ComponentCounts(float(siou.sum()), len(siou), float(ppv.sum()), len(ppv), found, false)


def _components(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels `(H, W)`, 0 for the background, and the number of pixels of each label."""
    labels, number = ndimage.label(pixels, EIGHT_NEIGHBORS)
    return labels, np.bincount(labels.ravel(), minlength=number + 1)
