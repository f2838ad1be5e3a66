"""Contexts that set modes of networks, of arithmetic and of random numbers within, and put them back afterwards."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn


def is_trained(module: nn.Module) -> bool:
    """Return whether any parameter of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode within; each module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Set training mode within; each module gets its own mode back."""
    with evaluation_mode(model):
        model.train()
        yield


@contextlib.contextmanager
def still_parametrizations(model: nn.Module) -> Iterator[None]:
    """Keep parametrizations as they are within: spectral norm changes its buffers when a weight is read in training."""
    modes = {
        part: part.training
        for module in model.modules()
        if isinstance(held := getattr(module, "parametrizations", None), nn.ModuleDict)
        for part in held.modules()
    }
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Compute in fp32 within, without autocast or TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def isolated_randomness() -> Iterator[None]:
    """Put the random states of Python, NumPy and PyTorch (on every device) back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
