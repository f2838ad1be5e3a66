"""The input dropout of LoRA without a copy of the input: one bit an element is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class DroppedProjection(torch.autograd.Function):
    """F.linear(dropout(x), a) that keeps `x` and one bit per element instead of a masked copy of `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, dropout: float) -> Tensor:
        """x: (..., in), a: (r, in) -> (..., r)."""
        keep = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)
        ctx.save_for_backward(x, a, pack_bits(keep))
        ctx.dropout = dropout
        return F.linear(x * keep, a) / (1 - dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """grad: (..., r) -> gradients of x (..., in) and a (r, in)."""
        x, a, bits = ctx.saved_tensors
        keep = unpack_bits(bits, x.shape)
        grad = grad / (1 - ctx.dropout)
        grad_x = grad.matmul(a) * keep if ctx.needs_input_grad[0] else None
        grad_a = grad.flatten(0, -2).t().matmul((x * keep).flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return grad_x, grad_a, None


def pack_bits(keep: Tensor) -> Tensor:
    """A bool tensor of n elements as ceil(n / 8) bytes."""
    flat = keep.flatten().view(torch.uint8)
    flat = F.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=keep.device)
    return (flat * weights).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pack_bits`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> shifts) & 1).bool().flatten()[: shape.numel()].view(shape)


def dropped_projection(x: Tensor, a: Tensor, dropout: float, training: bool) -> Tensor:
    """F.linear(dropout(x), a) in the dtype that autocast, or else `x`, asks for. x: (..., in), a: (r, in)."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    x, a = x.to(dtype), a.to(dtype)
    if not training or dropout == 0:
        return F.linear(x, a)
    with torch.autocast(device, enabled=False):
        return DroppedProjection.apply(x, a, dropout)
