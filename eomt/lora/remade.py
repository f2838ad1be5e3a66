"""How the input of an adapted layer is made again in the backward pass, from what the frozen network keeps anyway.

LoRA needs the input x of a layer once more, for the gradient of A. In a transformer x comes from something cheap: a
layer norm, an activation, the product of a gated unit. Autograd keeps the inputs of these for their own backward
passes, and they stand in the graph behind x. So the graph is read backwards from x, over views, casts and products with
constants, to the first operation that keeps all that its output can be computed from. Where it reads anything else, or
hooks keep tensors in a way of their own (activation checkpointing, offloading), x is kept as it is.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[Tensor, Sequence[Tensor]], Tensor]
# between a layer and what its input is made of; windows of SAM 2 take six
LONGEST_WAY = 12
# of views, whose output is the input in another shape
RESHAPES = ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Alias", "Clone")


class KeptElsewhereError(Exception):
    """What an operation keeps is kept by somebody's hooks: to read it might compute a whole checkpointed block."""


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
        x: Any tensor. If a copy of something was changed in place without a trace in the graph (under `no_grad`), and
            `x` made from that, what is made again is without the change.
    """
    # changed in place without a trace in the graph
    if x.grad_fn is None or x._version:
        return None
    node: Any = x.grad_fn
    place = x.output_nr
    steps: list[Step] = []
    constants: list[Tensor] = []
    try:
        for _ in range(LONGEST_WAY):
            # of several outputs, the others are statistics
            if place != 0:
                return None
            if (found := _base(node)) is not None:
                kept = tuple(None if tensor is None else tensor.detach() for tensor in found.kept)
                if any(tensor is not None and tensor.device != x.device for tensor in (*kept, *constants)):
                    return None
                return Recipe((*kept, *constants), _in_turn(found.make, len(kept), steps[::-1], len(constants)))
            step = _step(node, constants)
            inputs = [entry for entry in node.next_functions if entry[0] is not None]
            if step is None or len(inputs) != 1:
                return None
            steps.append(step)
            ((node, place),) = inputs
    # of another version of torch, or changed in place: then the backward pass of its own operation says so
    except (AttributeError, RuntimeError, TypeError, KeptElsewhereError):
        return None
    return None


def read_saved(node: Any) -> tuple[Tensor | None, ...]:
    """Return the tensors that one of this package's operations keeps.

    Raises:
        KeptElsewhereError: If reading them would run a hook.
    """
    if any(raw.unpack_hook is not None for raw in node._raw_saved_tensors):
        raise KeptElsewhereError
    return node.saved_tensors


def _read(node: Any, name: str) -> Tensor | None:
    """Return a tensor that an operation of torch keeps.

    Raises:
        KeptElsewhereError: If reading it would run a hook.
    """
    if getattr(node, f"_raw_saved_{name}").unpack_hook is not None:
        raise KeptElsewhereError
    return getattr(node, f"_saved_{name}")


def _in_turn(
    make: Callable[..., Tensor], num_kept: int, steps: Sequence[Step], num_constants: int
) -> Callable[..., Tensor]:
    def made(*kept: Tensor) -> Tensor:
        value, constants = make(*kept[:num_kept]), kept[num_kept:]
        for step in steps:
            value = step(value, constants)
        return value

    return made


def _base(node: Any) -> Recipe | None:
    """Return how the output of an operation is made of what it keeps; None if that does not suffice."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        # of this package alone: anybody may give theirs the name of an operation of torch
        own = getattr(node._forward_cls, "recipe_of_output", None)  # type: ignore[attr-defined]
        return None if own is None else own(node)
    kind, dtype = _kind(node), node._input_metadata[0].dtype
    if kind == "NativeLayerNorm":
        x, mean, scale = (_read(node, name) for name in ("input", "result1", "result2"))
        weight, bias = _read(node, "weight"), _read(node, "bias")
        # a CPU rounds the statistics of half precision
        if mean is None or mean.dtype in (torch.bfloat16, torch.float16) or (weight is None and bias is not None):
            return None
        affine = [tensor for tensor in (weight, bias) if tensor is not None]
        return Recipe((x, mean, scale, *affine), lambda *kept: _normalized(*kept).to(dtype))
    if kind == "FusedRmsNorm":
        x, scale, weight = (_read(node, name) for name in ("input", "result1", "weight"))
        kept = (x, scale) if weight is None else (x, scale, weight)
        return Recipe(kept, lambda x, scale, *weight: math.prod(weight, start=x * scale).to(dtype))
    if kind == "Gelu":
        approximate = node._saved_approximate
        return Recipe((_read(node, "self"),), lambda x: F.gelu(x, approximate=approximate))
    if kind == "Silu":
        return Recipe((_read(node, "self"),), F.silu)
    # to ask for the tensor itself would run a hook, which computes a whole checkpointed block
    if kind.startswith("ScaledDotProduct") and hasattr(node, "_raw_saved_output"):
        # attention keeps it itself; what follows may be a copy in another order
        return Recipe((_read(node, "output"),), lambda x: x)
    if kind == "Mul" and (a := _read(node, "self")) is not None and (b := _read(node, "other")) is not None:
        return Recipe((a, b), lambda a, b: (a * b).to(dtype))
    return None


def _kind(node: Any) -> str:
    """Return the name of an operation of torch; empty for anything else, such as the backward of a backward."""
    found = re.fullmatch(r"(\w+?)Backward\d+", node.name())
    return "" if found is None else found[1]


def _normalized(x: Tensor, mean: Tensor, scale: Tensor, *affine: Tensor) -> Tensor:
    value = (x - mean).mul_(scale)
    if len(affine) == 2:
        return torch.addcmul(affine[1].to(value.dtype), value, affine[0].to(value.dtype))
    return value.mul_(affine[0]) if affine else value


def _step(node: Any, constants: list[Tensor]) -> Step | None:
    """Return what an operation does with its one input; None if it is not among the cheap ones.

    A constant that it needs is added to `constants`. Padding is not among them: the graph does not say with what.
    """
    kind, output = _kind(node), node._input_metadata[0]
    if kind in RESHAPES:
        shape = tuple(output.shape)
        return lambda value, _: value.reshape(shape)
    if kind == "ToCopy":
        dtype = output.dtype
        return lambda value, _: value.to(dtype)
    if kind == "Permute":
        dims = [_signed(dim) for dim in node._saved_dims]
        return lambda value, _: value.permute(dims)
    if kind == "Transpose":
        pair = _signed(node._saved_dim0), _signed(node._saved_dim1)
        return lambda value, _: value.transpose(*pair)
    if kind == "Select":
        dim, index = _signed(node._saved_dim), _signed(node._saved_index)
        return lambda value, _: value.select(dim, index)
    if kind == "Slice":
        dim, start, end, step = (_signed(getattr(node, f"_saved_{name}")) for name in ("dim", "start", "end", "step"))
        chosen = slice(start, end, step)
        return lambda value, _: value[(slice(None),) * (dim % value.dim()) + (chosen,)]
    if kind == "Roll":
        shifts, over = [_signed(shift) for shift in node._saved_shifts], [_signed(dim) for dim in node._saved_dims]
        return lambda value, _: value.roll(shifts, over)
    if kind == "Mul":
        found = [tensor for tensor in (_read(node, "self"), _read(node, "other")) if tensor is not None]
        # a weight; one for each value, as the noise of dropout, would be kept longer than its operation keeps it
        if len(found) == 1 and found[0].dim() < 2:
            number, dtype = len(constants), output.dtype
            # steps are collected from the last to the first, and constants with them
            constants.append(found[0].detach())
            return lambda value, constants: (value * constants[number]).to(dtype)
    return None


def _signed(number: int) -> int:
    """Return a number that torch gives as if it had no sign."""
    return number - 2**64 if number >= 2**63 else number
