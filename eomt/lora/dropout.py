"""The input dropout of LoRA without a copy of the input: the backward pass draws the mask again, from its seed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 2**16


class DroppedProjection(torch.autograd.Function):
    """F.linear(dropout(x), a) that keeps `x`, which needs no memory of its own, and a seed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, dropout: float, seed: int) -> Tensor:
        """x: (..., in), a: (r, in) -> (..., r)."""
        ctx.save_for_backward(x, a)
        ctx.dropout, ctx.seed = dropout, seed
        return F.linear(keep_mask(x, dropout, seed).mul_(x), a) / keep_share(dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """grad: (..., r) -> gradients of x (..., in) and a (r, in)."""
        x, a = ctx.saved_tensors
        keep = keep_mask(x, ctx.dropout, ctx.seed)
        grad = grad / keep_share(ctx.dropout)
        grad_x = grad.matmul(a).mul_(keep) if ctx.needs_input_grad[0] else None
        grad_a = None
        if ctx.needs_input_grad[1]:
            # the mask is not needed again
            grad_a = grad.reshape(-1, len(a)).t().matmul(keep.mul_(x).reshape(-1, x.shape[-1]))
        return grad_x, grad_a, None, None


def keep_share(dropout: float) -> float:
    """The probability of keeping an element, as 16 random bits can express it."""
    return 1 - round(dropout * LEVELS) / LEVELS


def keep_mask(x: Tensor, dropout: float, seed: int) -> Tensor:
    """1 or 0 for each element, in the dtype of `x`: the same for the same seed, device type and number of elements.

    Four elements share a 64-bit draw: on a CPU it takes a quarter of the time of one draw each, and a product with a
    mask of the same dtype a quarter of that with a bool one.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    draws.random_(-(2**63), None, generator=generator)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return bits.ge_(round(dropout * LEVELS) - LEVELS // 2).to(x.dtype)


def dropped_projection(x: Tensor, a: Tensor, dropout: float, training: bool) -> Tensor:
    """F.linear(dropout(x), a) in the dtype that autocast, or else `x`, asks for. x: (..., in), a: (r, in)."""
    device = x.device.type
    # autocast leaves doubles alone
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    x, a = x.to(dtype), a.to(dtype)
    if not training or dropout == 0:
        return F.linear(x, a)
    if torch.compiler.is_compiling():
        # the compiler draws masks again in the backward pass by itself
        return F.linear(F.dropout(x, dropout), a)
    # from the CPU's generator: drawing it makes no GPU wait
    seed = int(torch.randint(2**62, ()))
    with torch.autocast(device, enabled=False):
        return DroppedProjection.apply(x, a, dropout, seed)
