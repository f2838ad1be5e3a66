"""W x + b + s B A dropout(x) as one operation, which keeps next to nothing of its own for the backward pass.

W may be packed in 8 or 4 bits. It is then made anew for each product, in the backward pass too, and never kept.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.lora.dropout import draw_seed, keep_mask, keep_share, once
from eomt.lora.packing import Packing, matrix_of
from eomt.lora.remade import Recipe, read_saved, recipe_of


@dataclass(frozen=True)
class Update:
    """How an adapter acts.

    Attributes:
        scaling: s.
        dropout: Probability of dropping an element of the input of A; 0 outside of training.
        slices: Places of the thirds of the output that have a pair of their own, k of them; None for one pair that
            changes the whole output.
    """

    scaling: float
    dropout: float
    slices: list[int] | None = None


def adapted_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    update: Update,
    packing: Packing | None = None,
) -> Tensor:
    """Return W x + b + s B A dropout(x), (..., out), in the dtype of autocast, or else of `x`.

    Args:
        x: Input, (..., in).
        weight: W, (out, in), or its bytes.
        bias: b, (out,), or None.
        a: A, (r, in), or with slices (k, r, in).
        b: B, (out, r), or with slices (k, out / 3, r).
        update: How the adapter acts.
        packing: How W is packed; None where it is not.
    """
    dtype = dtype_of(x)
    if weight.requires_grad or weight.is_complex() or is_transformed():
        matrix = weight if packing is None else packing.unpack(weight, dtype)
        return _in_plain_operations(x, matrix, bias, a, b, update, dtype)
    with torch.autocast(x.device.type, enabled=False):
        recipe = recipe_of(x) if torch.is_grad_enabled() else None
        seed = draw_seed() if update.dropout else 0
        return AdaptedProduct.apply(x, weight, bias, a, b, update, dtype, seed, recipe, packing)


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None, packing: Packing) -> Tensor:
    """Return W x + b, (..., out), for a packed W, in the dtype of autocast, or else of `x`.

    Args:
        x: Input, (..., in).
        packed: Bytes of W.
        bias: b, (out,), or None.
        packing: How W is packed.
    """
    dtype = dtype_of(x)
    if is_transformed():
        return F.linear(x, packing.unpack(packed, dtype), bias)
    with torch.autocast(x.device.type, enabled=False):
        return PackedProduct.apply(x, packed, bias, dtype, packing)


def dtype_of(x: Tensor) -> torch.dtype:
    """Return the dtype in which a linear layer or a convolution of `x` is computed."""
    device = x.device.type
    # autocast leaves doubles alone
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def is_transformed() -> bool:
    """Return whether operations are read by a compiler, which makes again by itself what is cheap, or by torch.func."""
    is_read = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_read or torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


class AdaptedProduct(torch.autograd.Function):
    """The operation of `adapted_product`, for a W that is not trained.

    Beside weights it keeps A dropout(x), (n, k r); of x what x is made of, where the graph keeps that anyway; of
    dropout a seed; of weights under autocast no copy in the narrow dtype.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        update: Update,
        dtype: torch.dtype,
        seed: int,
        recipe: Recipe | None,
        packing: Packing | None,
    ) -> Tensor:
        """Return the sum, (..., out)."""
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        dropped = keep_mask(rows, update.dropout, seed).mul_(rows) if update.dropout else rows
        h = F.linear(dropped, a.flatten(0, -2).to(dtype)).mul_(update.scaling / keep_share(update.dropout))
        # frozen adapters need no input
        kept = () if not ctx.needs_input_grad[3] else (rows,) if recipe is None else recipe.kept
        ctx.save_for_backward(weight, a, b, h, bias, *kept)
        ctx.update, ctx.dtype, ctx.seed, ctx.shape, ctx.device = update, dtype, seed, x.shape, x.device.type
        ctx.has_input = bool(kept)
        ctx.make = _the_one if recipe is None else recipe.make
        ctx.matrix = matrix_of(packing)
        y = _sum(rows, ctx.matrix(weight, dtype), bias, b, h, update)
        # a view would forbid what follows to change it in place, as DINOv3 adds its biases
        y = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])
        ctx.version = None if y.is_inference() else y._version
        return y

    @staticmethod
    def recipe_of_sum(node: Any) -> Recipe:
        """Return how the output of such an operation, which is in a graph, is made again from what it keeps.

        It is no `recipe_of_output`, since it costs a product.

        Raises:
            KeptElsewhereError: If hooks keep it.
        """
        weight, _, b, h, bias, *kept = cast(list[Any], read_saved(node))
        update, dtype, make, matrix, shape = node.update, node.dtype, node.make, node.matrix, node.shape

        def sum_again(weight: Tensor, b: Tensor, h: Tensor, bias: Tensor | None, *kept: Tensor) -> Tensor:
            rows = make(*kept).reshape(len(h), shape[-1]).to(dtype)
            y = _sum(rows, matrix(weight, dtype), bias, b, h, update)
            return y.view(*shape[:-1], y.shape[-1])

        return Recipe((weight, b, h, bias, *kept), sum_again)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, b, A and B from that of the output, (..., out)."""
        weight, a, b, h, _, *kept = ctx.saved_tensors
        needs_x, _, needs_bias, needs_a, needs_b = ctx.needs_input_grad[:5]
        update: Update = ctx.update
        grad_x = grad_bias = grad_a = grad_b = keep = rows = None
        with torch.autocast(ctx.device, enabled=False):
            grad = grad.reshape(-1, grad.shape[-1])
            parts = _parts(grad, h, b.to(ctx.dtype), update)
            pairs_a = a.flatten(0, -2).to(ctx.dtype)
            if needs_bias:
                grad_bias = grad.sum(0)
            if needs_b:
                grad_b = torch.stack([part.t() @ inner for part, inner, _ in parts]).view(b.shape)
            grad_h = torch.cat([part @ pair for part, _, pair in parts], 1)
            grad_h.mul_(update.scaling / keep_share(update.dropout))
            if needs_a:
                rows = ctx.make(*kept).reshape(len(grad), a.shape[-1]).to(ctx.dtype)
            if update.dropout:
                like = grad.new_empty(len(grad), a.shape[-1], dtype=ctx.dtype) if rows is None else rows
                keep = keep_mask(like, update.dropout, ctx.seed)
            if needs_x:
                grad_x = grad @ ctx.matrix(weight, ctx.dtype)
                grad_x = grad_x.addmm_(grad_h, pairs_a) if keep is None else grad_x.add_((grad_h @ pairs_a).mul_(keep))
                grad_x = grad_x.view(ctx.shape)
            if rows is not None:
                grad_a = (grad_h.t() @ (rows if keep is None else keep.mul_(rows))).view(a.shape)
        return grad_x, None, grad_bias, grad_a, grad_b, None, None, None, None, None


class PackedProduct(torch.autograd.Function):
    """The operation of `packed_product`, which keeps only the bytes of W, and these exist anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, dtype: torch.dtype, packing: Packing
    ) -> Tensor:
        """Return the sum, (..., out)."""
        ctx.save_for_backward(packed)
        ctx.dtype, ctx.packing, ctx.device = dtype, packing, x.device.type
        return F.linear(x.to(dtype), packing.unpack(packed, dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and b from that of the output, (..., out)."""
        (packed,) = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad[:3]
        with torch.autocast(ctx.device, enabled=False):
            grad_x = grad @ ctx.packing.unpack(packed, ctx.dtype) if needs_x else None
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if needs_bias else None
        return grad_x, None, grad_bias, None, None


def _the_one(x: Tensor) -> Tensor:
    return x


def _sum(rows: Tensor, matrix: Tensor, bias: Tensor | None, b: Tensor, h: Tensor, update: Update) -> Tensor:
    """Return W x + b + B h for rows x, (n, in), and W and h, (n, k r), in their dtype."""
    dtype = rows.dtype
    y = F.linear(rows, matrix, None if bias is None else bias.to(dtype))
    # into y: one pass over it instead of a product, a sum and a copy
    for part, inner, pair in _parts(y, h, b.to(dtype), update):
        part.addmm_(inner, pair.t())
    return y


def _parts(y: Tensor, h: Tensor, b: Tensor, update: Update) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return, for each pair, its part of the output, (n, out'), of h, (n, r), and its B, (out', r)."""
    if update.slices is None:
        return [(y, h, b)]
    thirds, inner = y.unflatten(1, (3, -1)), h.unflatten(1, (len(b), -1))
    return [(thirds[:, index], inner[:, place], b[place]) for place, index in enumerate(update.slices)]


def _in_plain_operations(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, update: Update, dtype: torch.dtype
) -> Tensor:
    """Return what `adapted_product` returns, for compilers, function transforms, and a W that is trained."""
    y = F.linear(x, weight, bias)
    h = F.linear(F.dropout(x.to(dtype), update.dropout), a.flatten(0, -2).to(dtype)) * update.scaling
    if update.slices is None:
        return y + F.linear(h, b.to(dtype))
    thirds = list(y.unflatten(-1, (3, -1)).unbind(-2))
    for index, inner, pair in zip(
        update.slices, h.unflatten(-1, (len(update.slices), -1)).unbind(-2), b.to(dtype).unbind(), strict=True
    ):
        thirds[index] = thirds[index] + F.linear(inner, pair)
    return torch.cat(thirds, -1)
