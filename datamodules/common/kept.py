"""What was decoded, kept in memory from one epoch to the next."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.data import get_worker_info

# of all processes that read for one loader
KEPT_BYTES = 2**29

Key = TypeVar("Key", bound=Hashable)
Sample = TypeVar("Sample", bound=tuple[Tensor, ...])


class KeptSamples(Generic[Key, Sample]):
    """Tensors of samples, of which as many are decoded once in all as `KEPT_BYTES` hold.

    Every process keeps what it read itself, and an equal share of the bytes. The first ones stay: where all samples
    are read equally often, no other choice would be better.

    Args:
        read: Returns the tensors of a key; nobody may change them.
    """

    def __init__(self, read: Callable[[Key], Sample]) -> None:
        self.read = read
        self._kept: dict[Key, Sample] = {}
        self._left = KEPT_BYTES

    def __call__(self, key: Key) -> Sample:
        """Return the tensors of a key."""
        if key in self._kept:
            return self._kept[key]
        sample = self.read(key)
        worker = get_worker_info()
        # of the storage, for the tensors may be parts of an image
        size = sum(tensor.untyped_storage().nbytes() for tensor in sample) * (worker.num_workers if worker else 1)
        if size <= self._left:
            self._left -= size
            self._kept[key] = sample
        return sample
