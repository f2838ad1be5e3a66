"""The record of which tensors of a network were read from a file."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def mark_loaded(model: nn.Module, names: Iterable[str]) -> None:
    """Records that tensors of `model` were read from a file, so that the audit can tell them from random ones."""
    model.loaded = getattr(model, "loaded", set()) | set(names)  # type: ignore[assignment]
