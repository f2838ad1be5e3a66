"""The record of which tensors of a network were read from a file."""

from collections.abc import Iterable

from torch import nn


def mark_loaded(model: nn.Module, names: Iterable[str]) -> None:
    """Record which tensors of `model` were read from a file, so that the audit can tell them from random ones."""
    vars(model)["loaded"] = loaded_in(model) | set(names)


def loaded_in(model: nn.Module) -> frozenset[str]:
    """Return the names that `mark_loaded` recorded for `model` itself; modules inside it have records of their own."""
    return vars(model).get("loaded", frozenset())


def forget_loaded(model: nn.Module) -> None:
    """Remove the record of `model`, as after its tensors were renamed."""
    vars(model).pop("loaded", None)
