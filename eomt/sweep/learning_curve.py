"""What more training images would bring: scores at shares of the images, and a power law through them."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eomt.sweep.outcome import Estimate

# shares of the training images, beside all of them
SHARES = (0.25, 0.5)
# exponents of error over images: 0 would mean that images do not help, 1 is fast for anything learned from images
EXPONENTS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Curve:
    """Scores over numbers of training images.

    Attributes:
        metric: The metric.
        points: Score of each fold, by number of images; the same folds, in order, for each number.
    """

    metric: str
    points: Mapping[int, list[float]]

    @property
    def means(self) -> dict[int, float]:
        """Mean score by number of images, rising."""
        return {images: statistics.mean(scores) for images, scores in sorted(self.points.items())}

    @property
    def gain_interval(self) -> tuple[float, float]:
        """Between which values the metric will change with twice the images, by all that is known.

        For each exponent c, score = a + b * images ** -c is fitted to the points of each fold by least squares; the
        interval holds the 95 % intervals of the mean over folds of all exponents: three points cannot tell c.
        """
        images = np.array(sorted(self.points), float)
        folds = list(zip(*(self.points[int(number)] for number in images), strict=True))
        if len(images) < 3 or len(folds) < 2:
            return math.nan, math.nan
        ends = []
        for exponent in EXPONENTS:
            curve = images**-exponent
            design = np.stack([np.ones_like(curve), curve], axis=1)
            slopes = [float(np.linalg.lstsq(design, np.array(scores), rcond=None)[0][1]) for scores in folds]
            step = (2 * images[-1]) ** -exponent - images[-1] ** -exponent
            gain = Estimate.of([slope * step for slope in slopes])
            ends += [gain.mean - gain.half_width, gain.mean + gain.half_width]
        return min(ends), max(ends)

    def verdict(self) -> str:
        """Return what more images would bring, in a sentence."""
        found = ", ".join(f"{mean:.3f} with {images}" for images, mean in self.means.items())
        low, high = self.gain_interval
        if math.isnan(low):
            return f"{self.metric}: {found} images; too few points to say what more would bring."
        hint = "" if low > 0 or high < 0 else ", so that it is not certain that they help"
        return f"{self.metric}: {found} images; twice the images: about {low:+.3f} to {high:+.3f}{hint}."
