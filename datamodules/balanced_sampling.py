"""Training samples in which every class is equally frequent."""

from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.sampling import TrainingSampler


class BalancedSampler(TrainingSampler):
    """Shuffled indices, each with the seed of its random changes, of all classes in turn.

    An epoch is as long as the data set. Each class is shuffled and taken from the start until its part of the epoch is
    filled: a rare class is repeated, of a frequent one each epoch shows another part. Each rank has images of its own,
    each as often as the others of its class (give or take one), and exactly as many of each class.

    Order and seeds depend on `seed` and the epoch alone: the same with any number of worker processes, and after a
    resume.

    Args:
        labels: Class of each sample; every class must have at least `world_size` of them.
        world_size: Number of processes.
        rank: Number of this process.
        seed: Seed of the run.
    """

    def __init__(self, labels: Sequence[int], world_size: int, rank: int, seed: int) -> None:
        super().__init__(len(labels), world_size, rank, seed)
        self.members = [np.flatnonzero(np.asarray(labels) == label) for label in sorted(set(labels))]
        assert all(len(members) >= world_size for members in self.members), "a class has fewer samples than ranks"

    def __len__(self) -> int:
        return self.rounds * len(self.members)

    @property
    def rounds(self) -> int:
        """How many samples of each class a rank takes in an epoch."""
        return self.num_samples // (self.world_size * len(self.members))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        columns = []
        for members in self.members:
            own = random.permutation(members)[self.rank :: self.world_size]
            columns.append(np.resize(own, self.rounds))
        positions = np.stack(columns, axis=1).ravel().tolist()
        seeds = random.integers(2**62, size=(len(positions), self.world_size))[:, self.rank].tolist()
        return iter(list(zip(positions, seeds, strict=True))[self.samples_seen() :])


def make_balanced_sampler(labels: Sequence[int], world_size: int = 1, rank: int = 0, seed: int = 0) -> BalancedSampler:
    """Return a sampler that draws every class equally often, right on any number of processes."""
    return BalancedSampler(labels, world_size, rank, seed)
