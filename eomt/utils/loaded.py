"""The record of which tensors of a network were read from a file."""

from collections.abc import Iterable

from torch import nn


def mark_loaded(model: nn.Module, names: Iterable[str]) -> None:
    """Record that tensors of `model` were read from a file, so that the audit can tell them from random ones."""
    vars(model)["loaded"] = loaded_in(model) | set(names)


def loaded_in(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors that `mark_loaded` recorded for `model` itself, not for modules inside it."""
    return vars(model).get("loaded", frozenset())


def forget_loaded(model: nn.Module) -> None:
    """Forget what was recorded, as after tensors were renamed."""
    vars(model).pop("loaded", None)
