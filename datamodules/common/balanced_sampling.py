"""Training samples in which every class is equally frequent."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from datamodules.common.sampling import TrainingSampler


class BalancedSampler(TrainingSampler):
    """Shuffled indices, each with the seed of its random changes, of all classes in turn.

    An epoch is as long as the data set. Each class is shuffled and taken from the start until its part of the epoch is
    filled: a rare class is repeated, of a frequent one each epoch shows another part. Each rank has images of its own,
    each as often as the others of its class (give or take one), and exactly as many of each class. Where the batch is a
    multiple of the number of classes, N ranks together draw what one would at N times the batch, with the same seeds.

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
        classes = np.asarray(labels)
        assert len(classes), "there are no samples"
        self.members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
        assert all(len(members) >= world_size for members in self.members), "a class has fewer samples than ranks"

    def __len__(self) -> int:
        return self.rounds * len(self.members)

    @property
    def rounds(self) -> int:
        """Number of samples of each class that a rank takes in an epoch."""
        return self.num_samples // (self.world_size * len(self.members))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        columns = []
        for members in self.members:
            own = random.permutation(members)[self.rank :: self.world_size]
            columns.append(np.resize(own, self.rounds))
        positions = np.stack(columns, axis=1).ravel().tolist()
        shape = (self.rounds, self.world_size, len(self.members))
        seeds = random.integers(2**62, size=shape)[:, self.rank].ravel().tolist()
        return iter(list(zip(positions, seeds, strict=True))[self.samples_seen() :])


class BalancedIndices(Sampler[int]):
    """The indices of a `BalancedSampler`, without the seeds that the datasets here take beside them."""

    def __init__(self, sampler: BalancedSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; Lightning calls it."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return (index for index, _ in self.sampler)


def make_balanced_sampler(labels: Sequence[int], world_size: int = 1, rank: int = 0, seed: int = 0) -> BalancedIndices:
    """Return a sampler of indices for any DataLoader that draws every class equally often, on any number of processes.

    Args: see `BalancedSampler`, which `MorphFaces` itself uses; labels may be a list, an array or a tensor.
    """
    return BalancedIndices(BalancedSampler(labels, world_size, rank, seed))
