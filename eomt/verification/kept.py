"""What autograd keeps from a forward pass for the backward pass, in bytes, and what of it adapters alone keep."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import lora_layers
from eomt.models.memory import memory_set
from eomt.verification.memory import Step, isolated_step

# of `eomt.lora.product`: it keeps W, A, B, A x and b before what it makes x of
ADAPTED, BEFORE_INPUT = "AdaptedProductBackward", 5


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps. Each storage counts once, and parameters and buffers, which exist anyway, do not.

    Attributes:
        total: All of them.
        of_inputs: Path of each native adapter of a linear layer -> bytes of its input that nothing else keeps; 0 where
            the backward pass makes the input again. What several adapters share counts for the first.
    """

    total: int
    of_inputs: dict[str, int]


def kept_bytes(network: nn.Module, output: Tensor) -> Kept:
    """Return what the graph of a network's output keeps.

    Args:
        network: A network without activation checkpointing, which keeps tensors in a way of its own.
        output: What it returned, or a loss of that.
    """
    own = {_address(tensor) for tensor in (*network.parameters(), *network.buffers())}
    paths = {_address(layer.lora_a): path for path, layer in lora_layers(network).items()}
    sizes: dict[int, int] = {}
    others: set[int] = set()
    inputs: dict[str, list[Tensor]] = {path: [] for path in paths.values()}
    for node in _nodes(output):
        saved = list(_saved(node))
        sizes |= {_address(tensor): tensor.untyped_storage().nbytes() for tensor in saved}
        if node.name() == ADAPTED and (path := paths.get(_address(saved[1]))):
            inputs[path] = saved[BEFORE_INPUT - (node.saved_tensors[BEFORE_INPUT - 1] is None) :]
        else:
            others |= {_address(tensor) for tensor in saved}
    of_inputs = {}
    for path, tensors in inputs.items():
        found = {_address(tensor) for tensor in tensors} - others - own
        of_inputs[path] = sum(sizes[address] for address in found)
        others |= found
    return Kept(sum(size for address, size in sizes.items() if address not in own), of_inputs)


def adapter_inputs(
    model: nn.Module,
    step: Step,
    batch: dict[str, Any],
    forward_context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, int]:
    """Return path of each native adapter of a linear layer -> bytes of its input that a step keeps for it alone.

    Nothing of the model is changed.

    Args:
        model: The model that is trained.
        step: Returns the loss of a batch as in training.
        batch: On the model's device.
        forward_context: Context around the forward pass, for its precision.
    """
    with isolated_step(model), memory_set(model, "floor"):
        with forward_context():
            loss = step(batch)
        return kept_bytes(model, loss).of_inputs if loss.requires_grad else {}


def _nodes(output: Tensor) -> Iterator[Any]:
    """Yield every operation in the graph of a tensor once."""
    waiting: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for function, _ in node.next_functions:
            if function is not None and function not in seen:
                seen.add(function)
                waiting.append(function)


def _saved(node: Any) -> Iterator[Tensor]:
    """Yield the tensors that an operation keeps."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        yield from (tensor for tensor in node.saved_tensors if tensor is not None)
        return
    for name in dir(node):
        if name.startswith("_saved_"):
            value = getattr(node, name)
            yield from (part for part in (value if isinstance(value, tuple) else [value]) if isinstance(part, Tensor))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
