"""Images of rare classes, shown more often."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.common.sampling import TrainingSampler


def repeat_factors(classes: Sequence[set[int]], threshold: float) -> np.ndarray:
    """Return how often an epoch shows each image (Gupta et al., LVIS, arXiv:1908.03195, section B).

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)), an image that of its rarest class.

    Args:
        classes: Classes that each image shows.
        threshold: Share of images below which a class counts as rare.

    Returns:
        float64 (N,), each at least 1.
    """
    frequency = Counter(class_id for present in classes for class_id in present)
    of_class = {class_id: max(1.0, (threshold * len(classes) / count) ** 0.5) for class_id, count in frequency.items()}
    return np.array([max((of_class[class_id] for class_id in present), default=1.0) for present in classes])


class RepeatFactorSampler(TrainingSampler):
    """Shuffled indices, each with the seed of its random changes; an epoch shows image i about `factors[i]` times.

    A factor of 1.3 is once or twice, in three epochs of ten twice. All epochs have the same length, the sum of the
    factors, so that a resumed run finds its place. What does not fill all ranks alike is left out.

    Order and seeds depend on `seed` and the epoch alone.

    Args:
        factors: How often each image is shown, (N,).
        world_size: Number of processes.
        rank: Number of this process.
        seed: Seed of the run.
    """

    def __init__(self, factors: np.ndarray, world_size: int, rank: int, seed: int) -> None:
        # rounded up, so that each image is shown at least once; less the error of a sum of floats
        super().__init__(math.ceil(float(factors.sum()) - 1e-6), world_size, rank, seed)
        self.factors = factors

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self._draw(random)).tolist()
        seeds = random.integers(2**62, size=self.num_samples).tolist()
        own = range(self.rank, len(self) * self.world_size, self.world_size)
        return iter([(order[position], seeds[position]) for position in own[self.samples_seen() :]])

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Draw every index as often as its factor says, rounded up or down, by systematic sampling."""
        # in another order each epoch, or neighbors would always share what rounding leaves
        shuffled = random.permutation(len(self.factors))
        ends = np.cumsum(self.factors[shuffled])
        marks = (np.arange(self.num_samples) + random.random()) * (ends[-1] / self.num_samples)
        drawn: np.ndarray = shuffled[np.minimum(np.searchsorted(ends, marks, side="right"), len(ends) - 1)]
        return drawn
