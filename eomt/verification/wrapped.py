"""What stands around a model: taken off, or refused where the model inside is not whole."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from eomt.errors import UserError

SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of DDP, DataParallel and torch.compile.

    Args:
        model: Any torch module.

    Raises:
        UserError: If its weights are sharded, so that no process holds them whole, or it is a compiled graph.
    """
    inner: Any = model
    while True:
        if isinstance(inner, DistributedDataParallel | DataParallel):
            inner = inner.module
        elif type(inner).__name__ == "OptimizedModule" and isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        else:
            break
    for kind in type(inner).__mro__:
        if kind.__name__ in SHARDED:
            _refuse(kind.__name__)
    for path, module in inner.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in SHARDED:
                _refuse(f"{kind.__name__} at {path!r}")
    for name, parameter in inner.named_parameters():
        # DTensor of FSDP 2 and tensor parallelism; DeepSpeed's third stage keeps an empty tensor
        if type(parameter).__name__ == "DTensor" or type(parameter.data).__name__ == "DTensor":
            _refuse(f"{name!r} is a DTensor")
        if hasattr(parameter, "ds_id") and parameter.numel() == 0:
            _refuse(f"{name!r} is DeepSpeed's, of stage 3")
    if isinstance(inner, _script_classes()):
        raise UserError(
            f"audit: the model is a {type(inner).__name__}, a compiled graph; give the module that it was made from"
        )
    return inner


@contextlib.contextmanager
def without_autocast(model: nn.Module) -> Iterator[None]:
    """Take the autocast off within that Accelerate puts around the forward of a model that it prepares."""
    held = [vars(module) for module in model.modules() if {"_original_forward", "forward"} <= vars(module).keys()]
    forwards = [attributes["forward"] for attributes in held]
    for attributes in held:
        attributes["forward"] = attributes["_original_forward"]
    try:
        yield
    finally:
        for attributes, forward in zip(held, forwards, strict=True):
            attributes["forward"] = forward


def _refuse(what: str) -> None:
    raise UserError(f"audit: the model is sharded ({what}); audit it before it is sharded, in one process")


def _script_classes() -> tuple[type, ...]:
    from torch.jit import ScriptModule

    return (ScriptModule,)
