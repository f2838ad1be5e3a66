"""Samplers that know the ranks, and the batches that they fill."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from eomt.errors import UserError, listed

PADDING_INDEX = -1


class TrainingSampler(Sampler[tuple[int, int]]):
    """Shuffled indices, each with the seed of its random changes; what does not fill all ranks alike is left out.

    Both depend on `seed` and the epoch alone: the same with any number of worker processes, and after a resume.

    Args:
        num_samples: Size of the data set.
        world_size: Number of processes.
        rank: Number of this process.
        seed: Seed of the run.

    Attributes:
        samples_seen: Tells, when an epoch is begun, how many of this rank's samples a resumed run has seen of it.
    """

    def __init__(self, num_samples: int, world_size: int, rank: int, seed: int) -> None:
        self.num_samples = num_samples
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.samples_seen: Callable[[], int] = int

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning does so."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.num_samples).tolist()
        seeds = random.integers(2**62, size=self.num_samples).tolist()
        own = range(self.rank, len(self) * self.world_size, self.world_size)
        return iter([(order[position], seeds[position]) for position in own[self.samples_seen() :]])


class LazyLoader(DataLoader[dict[str, Any]]):
    """A loader that begins an epoch with the first batch that is asked of it.

    Lightning makes the iterator before it restores the epoch and the progress of a resumed run; worker processes
    would fetch the first epoch's samples then.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


class EvaluationSampler(Sampler[int]):
    """Every `world_size`-th index, in order, from `rank` on.

    All ranks take the same number of steps, for collective operations inside a step would wait for ever otherwise;
    those with fewer samples are filled up with `PADDING_INDEX`, which data sets answer with an empty sample.

    Args:
        num_samples: Size of the data set.
        world_size: Number of processes.
        rank: Number of this process.
    """

    def __init__(self, num_samples: int, world_size: int, rank: int) -> None:
        self.num_samples = num_samples
        self.world_size = world_size
        self.rank = rank

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        own = list(range(self.rank, self.num_samples, self.world_size))
        return iter(own + [PADDING_INDEX] * (len(self) - len(own)))


def collate_any_size(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack and list as `collate_samples` does; images of different sizes are a list."""
    if len({sample["image"].shape for sample in samples}) == 1:
        return collate_samples(samples)
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def collate_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack the tensors of samples, list their names.

    Raises:
        UserError: Images of different sizes cannot be stacked.
    """
    sizes = {tuple(sample["image"].shape[-2:]): sample["name"] for sample in samples}
    if len(sizes) > 1:
        found = listed((f"{name} is {height} x {width}" for (height, width), name in sizes.items()), most=4)
        raise UserError(
            f"eval_batch_size: images of one batch differ in height x width ({found}); set eval_batch_size: 1"
        )
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        batch[key] = torch.stack(values) if isinstance(values[0], torch.Tensor) else values
    return batch
