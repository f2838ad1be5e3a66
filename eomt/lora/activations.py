"""Activations between two adapted layers whose input is made again in the backward pass, and not kept.

The input is the output of the first layer, the widest tensor of a transformer's block. It is made again from what that
layer keeps, which costs its product once more. The second layer, which needs the activation's output, hands on what it
has made, so that nothing is made twice.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eomt.lora.adapter_layer import set_module
from eomt.lora.product import AdaptedProduct, is_transformed
from eomt.lora.remade import Recipe

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
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if not torch.is_grad_enabled() or is_transformed() or hooks is not None:
            return self.inner(x)
        if not isinstance(x.grad_fn, AdaptedProduct._backward_cls):
            return self.inner(x)
        return Remade.apply(x, self.inner, AdaptedProduct.recipe(x.grad_fn))


class Remade(torch.autograd.Function):
    """An activation with a recipe of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: nn.Module, recipe: Recipe) -> Tensor:
        """Return the activation of x."""
        ctx.save_for_backward(*recipe.kept)
        # what the layer behind has made again already
        ctx.inner, ctx.make, ctx.made = inner, recipe.make, []
        return inner(x)

    @staticmethod
    def recipe(node: Any) -> Recipe:
        """Return how the output of such an operation, which is in a graph, is made again from what it keeps."""

        def activate_again(*kept: Tensor) -> Tensor:
            x = node.make(*kept)
            node.made.append(x)
            return node.inner(x)

        return Recipe(node.saved_tensors, activate_again)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x from that of the output."""
        x = ctx.made.pop() if ctx.made else ctx.make(*ctx.saved_tensors)
        x = x.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            y = ctx.inner(x)
        (found,) = torch.autograd.grad(y, x, grad)
        return found, None, None


def make_inputs_again(network: nn.Module, again: bool) -> None:
    """Let the activations in a network keep no input where they follow an adapted layer, or keep it as usual.

    Args:
        network: Any module, changed in place; names of parameters stay.
        again: Whether inputs are made again.
    """
    for path, module in list(network.named_modules()):
        if not again and isinstance(module, RemadeActivation):
            set_module(network, path, module.inner)
        elif again and path and is_activation(module) and not path.endswith(".inner"):
            set_module(network, path, RemadeActivation(module))


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is a function of its input alone, without parameters, that leaves it as it is."""
    has_state = any(True for _ in module.children()) or bool(module._parameters) or bool(module._buffers)
    in_place = getattr(module, "inplace", False)
    is_plain = type(module).__module__ in MODULES and not isinstance(module, nn.RReLU | nn.MultiheadAttention)
    return is_plain and not has_state and not in_place and not module._forward_hooks
