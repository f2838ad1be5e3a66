"""Contexts of the audit: what a pass changes in a model is put back, and what chance leaves out is left in."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import lora_layers

# a buffer of integers with more values is a packed weight of a quantized layer: it is no state, and not copied
PACKED = 1 << 20
# what leaves whole layers or branches out at random, by the name of a class or of an attribute
RANDOM_DEPTH = ("DropPath", "StochasticDepth")
LAYER_DROPS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop", "layer_dropout")


@contextlib.contextmanager
def untouched(
    model: nn.Module,
    changed: Iterable[Tensor] | None = None,
    beside: Iterable[nn.Parameter] = (),
    others: Iterable[nn.Module] = (),
) -> Iterator[None]:
    """Put parameters that are changed within, states and gradients back afterwards, and hold hooks on gradients.

    States are buffers and attributes of modules, and the weights of a module that does more than to set its mode in
    `train()`, as one that merges its adapter there.

    Args:
        model: Any torch module.
        changed: Its parameters that are changed; None takes each B of this package's adapters.
        beside: Parameters outside of the model that get gradients.
        others: Modules outside of the model whose states are put back.
    """
    others = list(others)
    modules = [*model.modules(), *others]
    tensors: list[Tensor] = (
        [*(layer.lora_b for layer in lora_layers(model).values())] if changed is None else [*changed]
    )
    for module in modules:
        tensors += _states(module)
    kept = {tensor: tensor.detach().clone() for tensor in dict.fromkeys(tensors)}
    # in order, and not by module: the hash of a metric follows its state
    states = [(vars(module), dict(vars(module)), module._buffers, dict(module._buffers)) for module in modules]
    # a module may add to a list, or to a dictionary, of its own
    lists = [value for _, held, _, _ in states for name, value in held.items() if _is_collection(name, value)]
    contents = [copy.copy(value) for value in lists]
    parameters = list(
        dict.fromkeys([*model.parameters(), *beside, *(p for other in others for p in other.parameters())])
    )
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
        for now, attributes, buffers_now, buffers in states:
            # a module may have put another tensor there
            _put_back(now, attributes)
            _put_back(buffers_now, buffers)
        for value, content in zip(lists, contents, strict=True):
            value.clear()
            if isinstance(value, list):
                value.extend(content)
            else:
                value.update(content)
        with torch.no_grad():
            for tensor, value in kept.items():
                # not where it is as it was: an expanded buffer cannot be written to
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.requires_grad_(flags[parameter])
            parameter.grad = gradient
        for held, callbacks in zip(hooks, kept_hooks, strict=True):
            held.update(callbacks)


def _states(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of a module that a pass may change, but for weights."""
    for buffer in module._buffers.values():
        if buffer is not None and (buffer.is_floating_point() or buffer.is_complex() or buffer.numel() <= PACKED):
            yield buffer
    for value in vars(module).values():
        if type(value) is Tensor and value.numel() <= PACKED:
            yield value
    if type(module).train is not nn.Module.train and not getattr(module, "merge_weights", False):
        yield from (parameter for parameter in module._parameters.values() if parameter is not None)


def _is_collection(name: str, value: Any) -> bool:
    return not name.startswith("_") and type(value) in (list, dict) and len(value) <= PACKED


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Put the values of a dictionary back, where they are others."""
    for name in [name for name in now if name not in before]:
        del now[name]
    now.update({name: value for name, value in before.items() if now.get(name, now) is not value})


@contextlib.contextmanager
def unmerged(model: nn.Module) -> Iterator[None]:
    """Keep layers that merge themselves in evaluation, as loralib's do, from doing so within.

    One that is merged already is taken apart, as its `train()` does it, and gets its very weights back afterwards.
    """
    held: list[Any] = list(model.modules())
    layers = [layer for layer in held if getattr(layer, "merge_weights", False) is True]
    merged = [layer for layer in layers if getattr(layer, "merged", False) is True]
    weights = [(p, p.detach().clone()) for layer in merged for p in layer._parameters.values() if p is not None]
    for layer in merged:
        training = layer.training
        layer.train()
        layer.training = training
    for layer in layers:
        layer.merge_weights = False
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in weights:
                parameter.copy_(value)
        for layer in layers:
            layer.merge_weights = True
        for layer in merged:
            layer.merged = True


def _is_certain(module: nn.Module) -> bool:
    """Return whether a module leaves out all that it is given, since its probability is 1."""
    rates = [vars(module).get(name) for name in ("drop_prob", "p", "prob", "drop_path", "drop_rate")]
    return any(isinstance(rate, int | float) and rate >= 1 for rate in rates)


@contextlib.contextmanager
def put_back(generators: Iterable[torch.Generator]) -> Iterator[None]:
    """Put the states of random number generators that a program made itself back afterwards."""
    states = [(generator, generator.get_state()) for generator in generators]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


@contextlib.contextmanager
def whole_depth(model: nn.Module) -> Iterator[None]:
    """Let no layer be left out at random within, so that one batch reaches all of them; for use in training mode."""
    modes = {
        module: module.training
        for module in model.modules()
        # what is always left out is no chance
        if any(name in type(module).__name__ for name in RANDOM_DEPTH) and not _is_certain(module)
    }
    holders = [holder for module in model.modules() for holder in (module, getattr(module, "config", None))]
    drops = {
        (id(holder), name): (holder, name, value)
        for holder in holders
        for name in LAYER_DROPS
        if holder is not None and isinstance(value := getattr(holder, name, None), float) and 0 < value < 1
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
