"""Input dropout for LoRA without a copy of the input: the backward pass draws the mask again, from its seed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 2**16


def dropped_projection(x: Tensor, a: Tensor, dropout: float, training: bool) -> Tensor:
    """Return F.linear(dropout(x), a), (..., r), in the dtype of autocast, or else of `x`.

    Args:
        x: Input, (..., in).
        a: A, (r, in).
        dropout: Probability of dropping an element.
        training: Whether anything is dropped.
    """
    device = x.device.type
    # autocast leaves doubles alone
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    x, a = x.to(dtype), a.to(dtype)
    if not training or dropout == 0:
        return F.linear(x, a)
    if torch.compiler.is_compiling():
        # the compiler itself draws the mask again in the backward pass
        return F.linear(F.dropout(x, dropout), a)
    # drawn on the CPU, so that no GPU has to be waited for
    seed = int(torch.randint(2**62, ()))
    with torch.autocast(device, enabled=False):
        return DroppedProjection.apply(x, a, dropout, seed)


class DroppedProjection(torch.autograd.Function):
    """F.linear(dropout(x), a) that keeps only a seed for its backward pass, beside `x`, which is kept anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, dropout: float, seed: int) -> Tensor:
        """Map x (..., in) with a (r, in) to (..., r)."""
        ctx.save_for_backward(x, a)
        ctx.dropout, ctx.seed = dropout, seed
        return F.linear(keep_mask(x, dropout, seed).mul_(x), a) / keep_share(dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of x (..., in) and a (r, in) from that of the output, grad (..., r)."""
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
    """Return the probability of keeping an element, rounded to what 16 random bits can express."""
    return 1 - round(dropout * LEVELS) / LEVELS


def keep_mask(x: Tensor, dropout: float, seed: int) -> Tensor:
    """Return 1 or 0 for each element of `x`, in its dtype; equal for equal seed, device type and number of elements.

    Four elements share a 64-bit draw, which on a CPU takes a quarter of the time of four draws. A product with a mask
    of the same dtype takes a quarter of the time of one with a bool mask.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    draws.random_(-(2**63), None, generator=generator)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return bits.ge_(round(dropout * LEVELS) - LEVELS // 2).to(x.dtype)
