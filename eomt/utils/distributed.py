"""Processes that train together: values gathered from all."""

import random
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor

Value = TypeVar("Value")


def is_distributed() -> bool:
    """Return whether this process is in an initialized group of processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather(value: Value) -> list[Value]:
    """Return the value of each process, by rank; every process must call this.

    Args:
        value: Anything that can be pickled.
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def batch_count(count: Tensor, is_training: bool, least: float = 1.0) -> Tensor:
    """Return what each process divides a sum over its samples by, so that gradients are those of all samples together.

    Data-parallel training takes the mean of the gradients of all processes: the sums of all of them are divided by
    the mean of their counts. In evaluation processes may have different numbers of batches and must not wait for one
    another, so each divides by its own count.

    Args:
        count: Of this process, such as its objects, a floating-point tensor of any shape; in training all processes
            must call this.
        is_training: Whether the sums are of a training step.
        least: What all counts together are at least, as there may be nothing to count.
    """
    if not is_training or not is_distributed():
        return count.clamp(min=least)
    processes = torch.distributed.get_world_size()
    total = count.clone()
    torch.distributed.all_reduce(total)
    return total.clamp(min=least) / processes


def seed_by_rank(rank: int) -> None:
    """Give the random generators of a process states of its own, made from the seed of all.

    With equal states all processes would draw the same dropout and the same masks. Those of rank 0 stay as they are:
    a run on one process is what it was.

    Args:
        rank: Number of this process.
    """
    if rank == 0:
        return
    seed = int(np.random.SeedSequence([torch.initial_seed(), rank]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
