"""Packages that import their parts at first use."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported when they are asked for.

    Args:
        package: Its name.
        places: Name -> the module that it is taken from.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    return find


def import_all(*packages: str) -> None:
    """Import every name that packages offer: a parser knows the classes that are there."""
    for package in map(importlib.import_module, packages):
        for name in package.__all__:
            getattr(package, name)
