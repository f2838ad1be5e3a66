"""Random changes of samples, each by a seed of its own."""

from collections.abc import Callable

import torch
from torch import Tensor


def with_seed(index: tuple[int, int] | int) -> tuple[int, int]:
    """Return position and seed of a sample; Lightning's overfit_batches takes the sampler away, and the seeds too."""
    return index if isinstance(index, tuple) else (index, index)


def seeded(transform: Callable[[Tensor], Tensor], image: Tensor, seed: int) -> Tensor:
    """Change an image at random, without touching any other randomness."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPU's generator too, which belongs to the network
        torch.default_generator.manual_seed(seed)
        return transform(image)
