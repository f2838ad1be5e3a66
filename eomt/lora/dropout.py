"""Input dropout for LoRA without a copy of the input: the backward pass draws the mask again, from its seed."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eomt.errors import UserError

LEVELS = 2**16
FEW_LEVELS = 2**8


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the backward pass of an operation without second derivatives, which refuses to be asked for them.

    torch's own `once_differentiable` refuses them only where the gradient of the output has a graph, too.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise UserError(
                "backward: create_graph asks for second derivatives, which adapted layers do not have; merge the "
                "adapters first (merge_lora_weights)"
            )
        return backward(ctx, *grads)

    return checked


class DroppedConvolution(torch.autograd.Function):
    """A convolution of dropout(x) with A that keeps only a seed beside `x`, which the base's convolution keeps too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, convolve: Callable[[Tensor, Tensor], Tensor], dropout: float, seed: int
    ) -> Tensor:
        """Return convolve(dropout(x), a)."""
        ctx.save_for_backward(x, a)
        ctx.convolve, ctx.dropout, ctx.seed = convolve, dropout, seed
        return convolve(keep_mask(x, dropout, seed).mul_(x), a) / keep_share(dropout)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and A from that of the output."""
        x, a = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            y = ctx.convolve(keep_mask(x, ctx.dropout, ctx.seed) * x, a) / keep_share(ctx.dropout)
        needed = [tensor for tensor, wanted in zip((x, a), ctx.needs_input_grad, strict=False) if wanted]
        found = iter(torch.autograd.grad(y, needed, grad))
        return *(next(found) if wanted else None for wanted in ctx.needs_input_grad[:2]), None, None, None


def draw_seed() -> int:
    """Return a seed for `keep_mask`, drawn on the CPU, so that no GPU has to be waited for."""
    return int(torch.randint(2**62, (), device="cpu"))


def keep_share(dropout: float) -> float:
    """Return the probability of keeping an element, rounded to what the random bits of `keep_mask` can express."""
    levels = _levels(dropout)
    return 1 - round(dropout * levels) / levels


def keep_mask(x: Tensor, dropout: float, seed: int) -> Tensor:
    """Return 1 or 0 for each element of `x`, in its dtype; equal for equal seed, device type and number of elements.

    Eight elements share a draw of 64 bits, or four where eight bits are too few; on a CPU the draws are numpy's, which
    take half the time of torch's. A product with a mask of the same dtype takes a quarter of the time of one with a
    bool mask.
    """
    levels = _levels(dropout)
    dtype, each = (torch.int8, 8) if levels == FEW_LEVELS else (torch.int16, 4)
    count = -(-x.numel() // each)
    if x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter):
        draws = torch.from_numpy(np.random.SFC64(seed).random_raw(max(1, count)).view(np.int64))
    else:
        generator = torch.Generator(x.device).manual_seed(seed)
        draws = torch.empty(count, dtype=torch.int64, device=x.device)
        draws.random_(-(2**63), None, generator=generator)
    bits = draws.view(dtype)[: x.numel()].view(x.shape)
    return bits.ge_(round(dropout * levels) - levels // 2).to(x.dtype)


def _levels(dropout: float) -> int:
    """Return how many values a random number of an element has: few, where these give the probability to 2 %."""
    rounded = round(dropout * FEW_LEVELS) / FEW_LEVELS
    return FEW_LEVELS if abs(rounded - dropout) <= 0.02 * min(dropout, 1 - dropout) else LEVELS
