"""How the input of an adapted layer is made again in the backward pass, from what the frozen network keeps anyway.

LoRA needs the input x of a layer once more, for the gradient of A. In a transformer x comes from something cheap: a
layer norm, an activation, the product of a gated unit. Autograd keeps the inputs of these for their own backward
passes, and they stand in the graph behind x. So the graph is read backwards from x, over views, casts and products with
constants, to the first operation that keeps all that its output can be computed from. Where it reads anything else, or
something keeps tensors in a way of its own (activation checkpointing, offloading), x is kept as it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[Tensor], Tensor]
# between a layer and what its input is made of; windows of SAM 2 take seven
LONGEST_WAY = 12
# of views, whose output is the input in another shape
RESHAPES = ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Alias", "Clone")


@dataclass(frozen=True)
class Recipe:
    """How a tensor is made again.

    Attributes:
        kept: What it is made of, without a graph.
        make: Makes it of these.
    """

    kept: tuple[Tensor | None, ...]
    make: Callable[..., Tensor]


def recipe_of(x: Tensor) -> Recipe | None:
    """Return how `x` is made again from tensors that its graph keeps; None if it cannot be.

    Args:
        x: Any tensor.
    """
    if x.grad_fn is None or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return None
    node: Any = x.grad_fn
    place = x.output_nr
    steps: list[Step] = []
    try:
        for _ in range(LONGEST_WAY):
            # of several outputs, the others are statistics
            if place != 0:
                return None
            kind = node.name().partition("Backward")[0]
            if kind == "Remade":
                recipe = node._forward_cls.recipe(node)
                return Recipe(recipe.kept, _in_turn(recipe.make, steps[::-1]))
            if (base := _base(kind, node)) is not None:
                kept, make = base
                return Recipe(tuple(tensor.detach() for tensor in kept), _in_turn(make, steps[::-1]))
            step = _step(kind, node)
            inputs = [entry for entry in node.next_functions if entry[0] is not None]
            if step is None or len(inputs) != 1:
                return None
            steps.append(step)
            ((node, place),) = inputs
    # of another version of torch, or changed in place: then the backward pass of its own operation says so
    except (AttributeError, RuntimeError):
        return None
    return None


def _in_turn(make: Callable[..., Tensor], steps: Sequence[Step]) -> Callable[..., Tensor]:
    def made(*kept: Tensor) -> Tensor:
        value = make(*kept)
        for step in steps:
            value = step(value)
        return value

    return made


def _base(kind: str, node: Any) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None:
    """Return the tensors that an operation keeps and how its output is made of them; None if they do not suffice."""
    dtype = node._input_metadata[0].dtype
    if kind == "NativeLayerNorm":
        affine = [tensor for tensor in (node._saved_weight, node._saved_bias) if tensor is not None]
        if len(affine) != 2 and node._saved_bias is not None:
            return None
        kept = (node._saved_input, node._saved_result1, node._saved_result2, *affine)
        return kept, lambda *kept: _normalized(*kept).to(dtype)
    if kind == "FusedRmsNorm":
        kept = (node._saved_input, node._saved_result1, *([] if node._saved_weight is None else [node._saved_weight]))
        return kept, lambda x, scale, *weight: math.prod(weight, start=x * scale).to(dtype)
    if kind == "Gelu":
        approximate = node._saved_approximate
        return (node._saved_self,), lambda x: F.gelu(x, approximate=approximate)
    if kind == "Silu":
        return (node._saved_self,), F.silu
    if kind.startswith("ScaledDotProduct") and hasattr(node, "_saved_output"):
        # attention keeps it itself; what follows may be a copy in another order
        return (node._saved_output,), lambda x: x
    if kind == "Mul" and node._saved_self is not None and node._saved_other is not None:
        return (node._saved_self, node._saved_other), lambda a, b: (a * b).to(dtype)
    return None


def _normalized(x: Tensor, mean: Tensor, scale: Tensor, *affine: Tensor) -> Tensor:
    value = (x - mean).mul_(scale)
    if len(affine) == 2:
        return torch.addcmul(affine[1].to(value.dtype), value, affine[0].to(value.dtype))
    return value.mul_(affine[0]) if affine else value


def _step(kind: str, node: Any) -> Step | None:
    """Return what an operation does with its one input; None if it is not among the cheap ones."""
    output = node._input_metadata[0]
    if kind in RESHAPES:
        shape = tuple(output.shape)
        return lambda value: value.reshape(shape)
    if kind == "ToCopy":
        dtype = output.dtype
        return lambda value: value.to(dtype)
    if kind == "Permute":
        dims = [_signed(dim) for dim in node._saved_dims]
        return lambda value: value.permute(dims)
    if kind == "Transpose":
        pair = _signed(node._saved_dim0), _signed(node._saved_dim1)
        return lambda value: value.transpose(*pair)
    if kind == "Select":
        dim, index = _signed(node._saved_dim), _signed(node._saved_index)
        return lambda value: value.select(dim, index)
    if kind == "Slice":
        dim, start, end, step = (_signed(getattr(node, f"_saved_{name}")) for name in ("dim", "start", "end", "step"))
        chosen = slice(start, end, step)
        return lambda value: value[(slice(None),) * (dim % value.dim()) + (chosen,)]
    if kind == "Roll":
        shifts, over = [_signed(shift) for shift in node._saved_shifts], [_signed(dim) for dim in node._saved_dims]
        return lambda value: value.roll(shifts, over)
    if kind == "ConstantPadNd":
        pad = [_signed(length) for length in node._saved_pad]
        return lambda value: F.pad(value, pad)
    if kind == "Mul":
        constants = [tensor for tensor in (node._saved_self, node._saved_other) if tensor is not None]
        # a weight; one for each value, as the noise of dropout, would be kept longer than its operation keeps it
        if len(constants) == 1 and constants[0].dim() < 2:
            constant, dtype = constants[0].detach(), output.dtype
            return lambda value: (value * constant).to(dtype)
    return None


def _signed(number: int) -> int:
    """Return a number that torch gives as if it had no sign."""
    return number - 2**64 if number >= 2**63 else number
