"""Sums before adapted layers, such as queries plus their positions, that are made again in the backward pass.

A sum keeps neither of its parts, so that the graph behind it does not say what it is made of, and an adapted layer
would keep it. Where one part can be made again, and the other is kept anyway, as positions are for a whole network, the
sum can be made again, too.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from eomt.lora.product import is_transformed
from eomt.lora.remade import Recipe, read_saved, recipe_of


def remade_sum(x: Tensor, constant: Tensor) -> Tensor:
    """Return x + constant; adapted layers make it again if they can make `x` again.

    Args:
        x: What may be made again, of any shape.
        constant: What others keep as well, of a shape that broadcasts to that of `x`; it may have a gradient.
    """
    recipe = None if is_transformed() or not torch.is_grad_enabled() else recipe_of(x)
    return x + constant if recipe is None else RemadeSum.apply(x, constant, recipe)


class RemadeSum(torch.autograd.Function):
    """A sum that keeps what its first part is made of, and its second part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor, recipe: Recipe) -> Tensor:
        """Return the sum."""
        ctx.save_for_backward(constant, *recipe.kept)
        ctx.make, ctx.shape, ctx.dtypes = recipe.make, constant.shape, (x.dtype, constant.dtype)
        return x + constant

    @staticmethod
    def recipe_of_output(node: Any) -> Recipe:
        """Return how the output of such an operation, which is in a graph, is made again from what it keeps."""
        make = cast(Callable[..., Tensor], node.make)
        return Recipe(read_saved(node), lambda constant, *kept: make(*kept) + constant)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of both parts from that of the sum."""
        of_x, of_constant = ctx.needs_input_grad[:2]
        return (
            grad.to(ctx.dtypes[0]) if of_x else None,
            grad.sum_to_size(ctx.shape).to(ctx.dtypes[1]) if of_constant else None,
            None,
        )
