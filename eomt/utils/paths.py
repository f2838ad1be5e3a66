"""Paths in configurations: the types that mark a field as one, and their expansion."""

import inspect
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

# a local file or folder, or else a word that stands for something to fetch: of a union that begins with str,
# jsonargparse makes a str, so that a repository's id stays as it was written
PathOrName = str | Path

Other = TypeVar("Other")


@overload
def expand(path: str | Path) -> Path: ...
@overload
def expand(path: None) -> None: ...
def expand(path: str | Path | None) -> Path | None:
    """Return a path with `~` replaced by the home folder; None stays None.

    Constructors call it on each path they are given, so that nobody after them has to.

    Args:
        path: A file or folder, which need not exist.
    """
    return None if path is None else Path(path).expanduser()


def expand_name(name: PathOrName) -> str:
    """Return a path with `~` replaced by the home folder; a name that is no such path stays as it is.

    Args:
        name: A local path, or the name of something to fetch, such as a repository on the hub.
    """
    return str(Path(name).expanduser()) if str(name).startswith("~") else str(name)


def expand_source(source: Other | PathOrName) -> Other | str:
    """Return a path or name as `expand_name` does; what is neither, a switch or a configuration, stays as it is."""
    return expand_name(source) if isinstance(source, str | Path) else source


def is_path_type(annotation: Any) -> bool:
    """Return whether values of a type are, or hold, paths.

    `Path`, `Path | None`, `bool | Path`, `PathOrName`, `list[Path]` and `dict[str, Path]` are such types, `str` is not.

    Args:
        annotation: Type of an argument.
    """
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return True
    return any(map(is_path_type, get_args(annotation)))


def path_fields(cls: type) -> frozenset[str]:
    """Return the names of a class's constructor arguments that hold paths.

    Arguments that a constructor hands on to a base class as `**arguments` are among them.

    Args:
        cls: A class.
    """
    found: dict[str, bool] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if inspect.isfunction(constructor):
            for name, parameter in inspect.signature(constructor).parameters.items():
                # what a class says of an argument goes before what its bases say
                found.setdefault(name, is_path_type(parameter.annotation))
    return frozenset(name for name, holds_paths in found.items() if holds_paths)
