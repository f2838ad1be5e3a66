"""Arguments of public functions: values of another type than the annotated one are refused in a line."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

from eomt.errors import UserError, shortened

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# what works wherever an annotation says less
ALSO: dict[type, tuple[type, ...]] = {float: (int,), Path: (os.PathLike,)}


def checked_arguments(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that raises a UserError where an argument is not of its annotated type.

    Of a list or a function only that it is one is checked, not what it holds or returns.

    Args:
        function: A function with annotations that are no texts.
    """
    kinds = {name: _kinds(parameter.annotation) for name, parameter in inspect.signature(function).parameters.items()}

    @functools.wraps(function)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # what is missing or too many, Python itself says best
        for name, value in [*zip(kinds, args, strict=False), *kwargs.items()]:
            allowed = kinds.get(name, (object,))
            if not isinstance(value, tuple(other for kind in allowed for other in (kind, *ALSO.get(kind, ())))):
                names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in allowed)
                raise UserError(f"{function.__name__}: {name} is {described(value)}; must be {names}")
        return function(*args, **kwargs)

    return checked


def described(value: object) -> str:
    """Return a value and its type for a message, in a line: None, 5 (int), ["a"] (list)."""
    text = shortened(" ".join(repr(value).split()))
    return text if value is None else f"{text} ({type(value).__name__})"


def _kinds(annotation: Any) -> tuple[type, ...]:
    """Return the classes whose instances an annotation allows."""
    if isinstance(annotation, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _kinds(part))
    kind = get_origin(annotation) or annotation
    return (kind,) if isinstance(kind, type) and kind is not Any else (object,)
