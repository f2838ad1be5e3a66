"""Contexts of the audit: what a pass changes in a model is put back, and what chance leaves out is left in."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import lora_layers
from eomt.verification.discovery import Adapter

# a buffer of integers with more values is a packed weight of a quantized layer: it is no state, and not copied
PACKED = 1 << 20
# what leaves whole layers or branches out at random, by the name of a class or of an attribute
RANDOM_DEPTH = ("DropPath", "StochasticDepth")
LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop", "layer_dropout")


@contextlib.contextmanager
def untouched(
    model: nn.Module, changed: Iterable[Tensor] | None = None, beside: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Put parameters that are changed within, buffers and gradients back afterwards, and hold hooks on gradients.

    Args:
        model: Any torch module.
        changed: Its parameters that are changed; None takes each B of this package's adapters.
        beside: Parameters outside of the model that get gradients.
    """
    tensors = [layer.lora_b for layer in lora_layers(model).values()] if changed is None else changed
    kept = {tensor: tensor.detach().clone() for tensor in tensors}
    holders = {
        (module, name): buffer
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    }
    for buffer in holders.values():
        if buffer.is_floating_point() or buffer.is_complex() or buffer.numel() <= PACKED:
            kept[buffer] = buffer.detach().clone()
    parameters = list(dict.fromkeys([*model.parameters(), *beside]))
    gradients = {parameter: parameter.grad for parameter in parameters}
    flags = {parameter: parameter.requires_grad for parameter in parameters}
    # a hook of the user may step an optimizer as soon as a gradient is there
    hooks = [held for parameter in parameters if (held := getattr(parameter, "_post_accumulate_grad_hooks", None))]
    kept_hooks = [dict(held) for held in hooks]
    for held in hooks:
        held.clear()
    for parameter in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name), buffer in holders.items():
                # a module may have put another tensor there
                module._buffers[name] = buffer
            for tensor, value in kept.items():
                tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.requires_grad_(flags[parameter])
            parameter.grad = gradient
        for held, callbacks in zip(hooks, kept_hooks, strict=True):
            held.update(callbacks)


@contextlib.contextmanager
def unmerged(adapters: list[Adapter]) -> Iterator[None]:
    """Keep layers that merge themselves in evaluation, as loralib's do, from doing so within."""
    held: list[Any] = [adapter.layer for adapter in adapters]
    layers = [layer for layer in held if getattr(layer, "merge_weights", False) is True]
    for layer in layers:
        layer.merge_weights = False
    try:
        yield
    finally:
        for layer in layers:
            layer.merge_weights = True


@contextlib.contextmanager
def whole_depth(model: nn.Module) -> Iterator[None]:
    """Let no layer be left out at random within, so that one batch reaches all of them; for use in training mode."""
    modes = {
        module: module.training
        for module in model.modules()
        if any(name in type(module).__name__ for name in RANDOM_DEPTH)
    }
    holders = [holder for module in model.modules() for holder in (module, getattr(module, "config", None))]
    drops = {
        (id(holder), name): (holder, name, value)
        for holder in holders
        for name in LAYER_DROPS
        if holder is not None and isinstance(value := getattr(holder, name, None), float) and value
    }
    for module in modes:
        module.training = False
    for holder, name, _ in drops.values():
        setattr(holder, name, 0.0)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for holder, name, value in drops.values():
            setattr(holder, name, value)
