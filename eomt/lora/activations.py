"""Activations between two adapted layers whose input is made again in the backward pass, and not kept.

The input is the output of the first layer, the widest tensor of a transformer's block. It is made again from what that
layer keeps, which costs its product once more. The second layer, which needs the activation's output, hands on what it
has made, so that nothing is made twice.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from eomt.lora.dropout import once
from eomt.lora.product import AdaptedProduct, is_transformed
from eomt.lora.remade import KeptElsewhereError, Recipe, read_saved

# modules of functions without parameters, each of which takes a tensor and returns one of its shape
MODULES = ("torch.nn.modules.activation", "transformers.activations", "timm.layers.activations")


class RemadeActivation(nn.Module):
    """An activation that keeps no input where it follows an adapted layer; anywhere else it is as it was.

    Args:
        inner: The activation.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.train(inner.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of x, of any shape."""
        if not torch.is_grad_enabled() or is_transformed() or _has_hooks(self.inner):
            return self.inner(x)
        node = x.grad_fn
        is_sum = isinstance(node, AdaptedProduct._backward_cls)
        # a change in place after the layer would not be made again
        if not is_sum or x._version != cast(Any, node).version or not cast(Any, node).has_input:
            return self.inner(x)
        try:
            recipe = AdaptedProduct.recipe_of_sum(node)
        except KeptElsewhereError:
            return self.inner(x)
        return Remade.apply(x, self.inner, recipe)


class Remade(torch.autograd.Function):
    """An activation with a recipe of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: nn.Module, recipe: Recipe) -> Tensor:
        """Return the activation of x."""
        ctx.save_for_backward(*recipe.kept)
        ctx.inner, ctx.make = inner, recipe.make
        device = x.device.type
        # some activations are computed in fp32 under autocast
        ctx.autocast = {"enabled": torch.is_autocast_enabled(device), "dtype": torch.get_autocast_dtype(device)}
        # x, once a layer behind has made it again
        ctx.made = None
        return inner(x)

    @staticmethod
    def recipe_of_output(node: Any) -> Recipe:
        """Return how the output of such an operation, which is in a graph, is made again from what it keeps."""

        def activate_again(*kept: Tensor) -> Tensor:
            if node.made is None:
                node.made = node.make(*kept)
            with torch.autocast(node.made.device.type, **node.autocast):
                return node.inner.forward(node.made)

        return Recipe(read_saved(node), activate_again)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x from that of the output."""
        x = ctx.made
        ctx.made = None
        if x is None:
            with torch.autocast(grad.device.type, enabled=False):
                x = ctx.make(*ctx.saved_tensors)
        x = x.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(x.device.type, **ctx.autocast):
            y = ctx.inner.forward(x)
        (found,) = torch.autograd.grad(y, x, grad)
        return found, None, None


def make_inputs_again(network: nn.Module, again: bool) -> None:
    """Let the activations in a network keep no input where they follow an adapted layer, or keep it as usual.

    Args:
        network: Any module, changed in place; names of parameters stay.
        again: Whether inputs are made again.
    """
    # a module may have several places, and keeps them
    wrapped: dict[int, RemadeActivation] = {}
    for parent in list(network.modules()):
        if isinstance(parent, RemadeActivation):
            continue
        for name, module in parent._modules.items():
            if isinstance(module, RemadeActivation):
                parent._modules[name] = module if again else module.inner
            elif again and module is not None and is_activation(module):
                parent._modules[name] = wrapped.setdefault(id(module), RemadeActivation(module))


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is a function of its input alone, without parameters, that leaves it as it is."""
    has_state = any(True for _ in module.children()) or bool(module._parameters) or bool(module._buffers)
    in_place = getattr(module, "inplace", False)
    is_plain = type(module).__module__ in MODULES and not isinstance(module, nn.RReLU | nn.MultiheadAttention)
    return is_plain and not has_state and not in_place and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or torch.nn.modules.module._has_any_global_hook()
