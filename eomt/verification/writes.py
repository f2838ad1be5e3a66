"""Weights that a training pass writes to, such as those of a teacher that follows: kept when they are written to."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

ASSIGNMENTS = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__", "__setitem__"}
# operations that end as those in place do, and leave the values alone
LEAVE_VALUES = {"requires_grad_", "detach_", "retain_grad_", "share_memory_", "rename_"}
# how far the modules that a function uses are looked for
DEPTH = 3
# what has more entries is not searched
LONG = 1000


class Writes:
    """Parameters and what they held before something wrote to them. Only then there is a copy.

    Args:
        parameters: Those to keep.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        # the same memory under a name of its own: a module may put other memory into a parameter
        self.held = {parameter: parameter.data for parameter in parameters}
        self.values: dict[nn.Parameter, Tensor] = {}

    @contextlib.contextmanager
    def watched(self, frozen: bool = False) -> Iterator[None]:
        """Keep the values of what is written to within.

        Args:
            frozen: Look at what is frozen alone.
        """
        with _Watch(self, [p for p in self.held if not (frozen and p.requires_grad)]):
            yield

    def undo(self) -> None:
        """Put the values back."""
        for parameter, held in self.held.items():
            if parameter.data.data_ptr() != held.data_ptr():
                parameter.data = held
        with torch.no_grad():
            for parameter, value in self.values.items():
                parameter.copy_(value)


class _Watch(TorchFunctionMode):
    def __init__(self, writes: Writes, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._writes = writes
        self._addresses: dict[int, list[nn.Parameter]] = {}
        for parameter in parameters:
            if (address := _address(parameter)) is not None:
                self._addresses.setdefault(address, []).append(parameter)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if (name[-1:] == "_" and name[-2:] != "__" and name not in LEAVE_VALUES) or name in ASSIGNMENTS:
            self._keep(args[0] if args else None)
        if kwargs and kwargs.get("out") is not None:
            self._keep(kwargs["out"])
        return func(*args, **(kwargs or {}))

    def _keep(self, written: Any) -> None:
        for tensor in written if isinstance(written, list | tuple) else [written]:
            for parameter in self._addresses.get(_address(tensor) or 0, ()) if isinstance(tensor, Tensor) else ():
                if parameter not in self._writes.values:
                    self._writes.values[parameter] = parameter.detach().clone()


def _address(tensor: Tensor) -> int | None:
    """Return which memory a tensor lies in; None of tensors that have none of their own, as some quantized ones."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


@contextlib.contextmanager
def writes_undone(modules: Iterable[nn.Module]) -> Iterator[Writes]:
    """Put back afterwards what is written to the parameters of some modules while that is watched."""
    writes = Writes(
        parameter for module in modules for parameter in module._parameters.values() if parameter is not None
    )
    try:
        yield writes
    finally:
        writes.undo()


def modules_beside(model: nn.Module, functions: Iterable[Callable[..., Any]]) -> list[nn.Module]:
    """Return the modules outside of a model that functions use, such as a criterion with a state of its own.

    They are looked for in what a function closes over, in its defaults, in the globals that it names, and in the
    attributes of objects there.
    """
    # by what they are: the hash of a metric follows its state
    inside = {id(module) for module in model.modules()}
    found: dict[int, nn.Module] = {}
    for value in _reached(functions):
        if isinstance(value, nn.Module):
            # DDP keeps flags of its own beside the model
            found |= {
                id(module): module
                for module in value.modules()
                if id(module) not in inside and not isinstance(module, DistributedDataParallel)
            }
    return list(found.values())


def generators_of(model: nn.Module, functions: Iterable[Callable[..., Any]]) -> list[torch.Generator]:
    """Return the random number generators that a model holds in attributes, and that functions use."""
    held = [value for module in model.modules() for value in vars(module).values()]
    found = [value for value in (*held, *_reached(functions)) if isinstance(value, torch.Generator)]
    return list({id(generator): generator for generator in found}.values())


def _reached(functions: Iterable[Callable[..., Any]]) -> Iterator[Any]:
    """Yield what functions use: modules, and all other objects that are found on the way to them."""
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(function, 0) for function in functions]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in seen or depth > DEPTH:
            continue
        seen.add(id(value))
        yield value
        waiting += [(part, depth + 1) for part in _used(value)]


def _used(value: Any) -> Iterator[Any]:
    """Yield what a function, an object or a collection holds."""
    if isinstance(value, type | types.ModuleType | Tensor | nn.Module):
        return
    if isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            # one is empty before its variable is set
            with contextlib.suppress(ValueError):
                yield cell.cell_contents
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from (value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__)
    elif isinstance(value, list | tuple | dict):
        # a data set is no place for modules
        yield from (value.values() if isinstance(value, dict) else value) if len(value) <= LONG else ()
    else:
        yield from getattr(value, "__dict__", {}).values()


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function and those inside of it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
