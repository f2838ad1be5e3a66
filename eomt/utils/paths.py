"""Paths in configurations: which types mark a field as a path, and how `~` is expanded."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

from eomt.errors import UserError, printable, shortened

# a local path, or the name of something to fetch; str comes first, so that jsonargparse makes a str and leaves a
# repository's name as it was written
PathOrName = str | Path

Other = TypeVar("Other")


def check_text(path: str | Path) -> None:
    """Check that a path is text: a name that is not can be written into no table and into no record of a run.

    Raises:
        UserError: If its bytes are no UTF-8, as in names of old archives.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = shortened(printable(str(path)), 160)
        raise UserError(f"{name}: is no name in UTF-8, and no table could hold it; rename it") from error


@overload
def expand(path: str | Path) -> Path: ...
@overload
def expand(path: None) -> None: ...
def expand(path: str | Path | None) -> Path | None:
    """Return a path with `~` replaced by the home folder; None stays None.

    Constructors call it on each path that they are given, so that no other code has to.

    Args:
        path: A file or folder; it need not exist.

    Raises:
        UserError: If it is no text, see `check_text`.
    """
    if path is None:
        return None
    check_text(path)
    # that of a user who is not there stays as it is, and is then no folder: Path.expanduser would raise
    return Path(os.path.expanduser(path))


def expand_all(paths: Path | list[Path] | None) -> Path | list[Path] | None:
    """Return one or several paths with `~` replaced by the home folder; None stays None."""
    return [expand(path) for path in paths] if isinstance(paths, list) else expand(paths)


def expand_name(name: PathOrName) -> str:
    """Return a path with `~` replaced by the home folder; other names stay as they are.

    Args:
        name: A local path, or the name of something to fetch, such as a repository on the hub.
    """
    check_text(name)
    return str(expand(name)) if str(name).startswith("~") else str(name)


def expand_source(source: Other | PathOrName) -> Other | str:
    """Return a path or name as `expand_name` does; anything else, such as a bool or a dict, stays as it is."""
    return expand_name(source) if isinstance(source, str | Path) else source


def is_path_type(annotation: Any) -> bool:
    """Return whether values of a type are paths, or hold paths.

    `Path`, `Path | None`, `bool | Path`, `PathOrName`, `list[Path]` and `dict[str, Path]` are such types; `str` is not.

    Args:
        annotation: Type of an argument.
    """
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return True
    return any(map(is_path_type, get_args(annotation)))


def path_fields(cls: type) -> frozenset[str]:
    """Return the names of a class's constructor arguments that hold paths.

    Arguments of base classes, which constructors pass on as `**arguments`, are included.

    Args:
        cls: A class.
    """
    found = constructor_parameters(cls)
    return frozenset(name for name, parameter in found.items() if is_path_type(parameter.annotation))


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return a class's constructor arguments by name, and those that its bases add.

    Args:
        cls: A class; of a function, which a class_path may name too, nothing is known.
    """
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__ if isinstance(cls, type) else ():
        constructor = vars(base).get("__init__")
        if inspect.isfunction(constructor):
            for name, parameter in _signature(constructor).parameters.items():
                # a class's own annotation comes before those of its bases
                found.setdefault(name, parameter)
    return found


def _signature(constructor: Callable[..., Any]) -> inspect.Signature:
    try:
        # annotations are texts where their module postpones them
        return inspect.signature(constructor, eval_str=True)
    except NameError:
        # some name is imported for type checkers alone
        return inspect.signature(constructor)
