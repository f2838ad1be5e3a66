"""Several processes: the rank of this one, and what all of them hold."""

from __future__ import annotations

from typing import TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

Gathered = TypeVar("Gathered")


def gathered(value: Gathered) -> list[Gathered]:
    """Return what each process holds."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    parts: list[Gathered | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, value)
    return parts  # type: ignore[return-value]


def rank() -> int:
    """Of this process among those that train together."""
    return getattr(rank_zero_only, "rank", 0)
