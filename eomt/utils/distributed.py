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


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a scalar over all processes, which must all call this; in a single one, the scalar."""
    if not is_distributed():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


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
