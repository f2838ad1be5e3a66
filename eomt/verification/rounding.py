"""Gradients that are rounding alone, told by another backward pass through the same graph.

A backward pass is linear: from a loss that is multiplied by a number it gives gradients that are multiplied by it. What
is left where terms cancel, as behind a softmax over one key, is another each time, since no rounding stays the same.
"""

import contextlib
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# no powers of two, which would leave every rounding as it is
FACTORS = (1.37, 1.61)
# a gradient is looked at where it is so much smaller than the largest, or where the largest is so small
SMALL, NOTHING = 1e-4, 1e-6
# the same for 16 bits, of which rounding leaves more
SMALL_IN_HALF = 0.03
# the least share by which a gradient of rounding alone changes; others change by 1e-6, and by 1e-2 in 16 bits
CHANGED = 0.1


def values_of(gradient: Tensor) -> Tensor:
    """Return the numbers of a gradient; of a sparse one, as an embedding may have it, those that are there."""
    if gradient.layout == torch.strided:
        return gradient
    return (gradient.coalesce() if gradient.layout == torch.sparse_coo else gradient).values()


def rounding_alone(value: Tensor, parameters: Iterable[Tensor], half: bool) -> set[Tensor] | None:
    """Return the parameters whose gradients, after a backward pass, are nothing but what rounding leaves.

    None: no gradient is so small that it was looked at, and no other backward pass was made.

    Args:
        value: What the backward pass began at, with its graph retained.
        parameters: Those with gradients.
        half: Whether anything is computed in 16 bits.
    """
    held = [p for p in dict.fromkeys(parameters) if p.requires_grad and p.grad is not None and p.is_leaf]
    sizes = {p: _size(p.grad) for p in held if p.grad is not None}
    largest = max(sizes.values(), default=0.0)
    limit = (SMALL_IN_HALF if half else SMALL) * largest
    if largest <= NOTHING:
        limit = largest
    suspects = [p for p, size in sizes.items() if 0 < size <= limit]
    if not suspects:
        return None
    # what frees its own memory, such as reentrant checkpointing, refuses this: then nothing is known
    with contextlib.suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for factor in FACTORS:
            again = torch.autograd.grad(
                value, suspects, torch.full_like(value, factor), retain_graph=True, allow_unused=True
            )
            suspects = [p for p, now in zip(suspects, again, strict=True) if _differs(p.grad, now, factor)]
            if not suspects:
                break
        return set(suspects)
    return set()


def _size(gradient: Tensor) -> float:
    """Return the root of the mean square of a gradient."""
    values = values_of(gradient).detach().float()
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def _differs(gradient: Tensor | None, now: Tensor | None, factor: float) -> bool:
    if gradient is None or now is None or gradient.shape != now.shape:
        return False
    was = gradient.detach().to_dense() if gradient.layout != torch.strided else gradient.detach()
    now = now.detach().to_dense() if now.layout != torch.strided else now.detach()
    change = float((now.double() / factor - was.double()).norm())
    return change > CHANGED * float(was.double().norm())


def in_half(model: nn.Module, value: Tensor) -> bool:
    """Return whether anything is computed in 16 bits; `value` is what the model was called for."""
    return torch.is_autocast_enabled(value.device.type) or any(
        tensor.itemsize == 2 for tensor in (value, *model.parameters())
    )
