"""Tensors of which each process holds a part, and the whole ones that files and other processes get."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(module: nn.Module) -> bool:
    """Return whether each process holds only a part of some parameter."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes; every process must call this for one of which it has a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def parted(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, on the device of `like` and divided in the same way."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Let a module hold its trained parameters whole for a while, to save them; every process must do so.

    Frozen weights stay divided. The module must not be called meanwhile.
    """
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    # the weights outside of blocks stay whole after a validation, until something asks for the state
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    try:
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if isinstance(parameter, DTensor) and parameter.requires_grad:
                    replaced.append((part, name, parameter))
                    with torch.no_grad():
                        part._parameters[name] = nn.Parameter(whole(parameter.detach()).clone())
        yield
    finally:
        for part, name, parameter in replaced:
            part._parameters[name] = parameter
