"""Proof that every adapter acts and that merging changes no answer, on one batch, whatever the network is made of."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers, set_module
from eomt.lora.layers import merge_lora_weights
from eomt.lora.packed_weight import packed_layers, unquantize
from eomt.utils.arguments import checked_arguments
from eomt.utils.modes import evaluation_mode, full_precision, isolated_randomness
from eomt.verification.discovery import find_adapters
from eomt.verification.evaluation import evaluation
from eomt.verification.passes import Outputs, call, check_pass
from eomt.verification.restored import untouched

# the largest difference of merged and adapted answers, as a share of the largest answer
TOLERANCE = 1e-4

Model = TypeVar("Model", bound=nn.Module)


@checked_arguments
def check_adapters(model: nn.Module, batch: Any, outputs: Outputs = call) -> None:
    """Check that each adapter changes the output, and that merging all of them does not.

    No list of networks is behind it: B of each adapter is set to random values, the model answers, and so does its
    merged copy. It needs no loss, so that it also fits an adapter that was only loaded. Random states, buffers,
    gradients and adapters are afterwards as before.

    Args:
        model: Any torch module with adapters.
        batch: Batch for `outputs`, on the model's device.
        outputs: Returns a model's answer to a batch as one tensor; by default the model is called with the batch.

    Raises:
        UserError: If an argument is not of its type, the model cannot answer the batch in a tensor, it holds no
            adapter, one is never called or changes nothing, or merging changes answers; the message names the first.
    """
    layers = lora_layers(model)
    if not layers:
        raise UserError("check_adapters: the model holds no adapters; adapt it with apply_lora")
    check_pass("check_adapters", model, batch)
    pairs = {pair: pair.requires_grad for layer in layers.values() for pair in (layer.lora_a, layer.lora_b)}
    with isolated_randomness(), untouched(model), torch.compiler.set_stance("force_eager"):
        try:
            for pair in pairs:
                pair.requires_grad_(True)
            adapters = [adapter for adapter in find_adapters(model) if adapter.is_own]
            for adapter in adapters:
                nn.init.normal_(adapter.pair[1], std=0.02)
            faults = [str(finding) for finding in evaluation(model, batch, outputs, adapters).findings]
        finally:
            for pair, flag in pairs.items():
                pair.requires_grad_(flag)
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise UserError(f"check_adapters: {faults[0]}{more}; put it into exclude_modules")
        _, _, difference = merged_copy(model, batch, outputs)
        # written so that NaN is a fault too
        if not difference <= TOLERANCE:
            raise UserError(
                f"check_adapters: merged, {_changed_by_merging(model, batch, outputs)!r} changes the answers by "
                f"{difference:.1e} of the largest: its weight is read without the adapter; put it into exclude_modules"
            )


def merged_copy(network: Model, batch: Any, outputs: Outputs = call) -> tuple[Model, float, float]:
    """Return a copy of a network in fp32 with its adapters merged, and the difference of its answers on a batch.

    Adapters over a quantized base are merged into the weights from before, and compared with the same adapters over
    these; both copies are then on the CPU, since a GPU may not hold them.

    Args:
        network: Adapted or plain; it is not changed.
        batch: Batch for `outputs`, on the network's device.
        outputs: Returns a network's answer to a batch as one tensor.

    Returns:
        The copy; the largest absolute difference; that difference divided by the largest absolute answer.
    """
    adapted = copy.deepcopy(network)
    if packed_layers(adapted):
        unquantize(adapted.cpu())
        batch = tree_map_only(Tensor, Tensor.cpu, batch)
    adapted = adapted.float()
    merged = copy.deepcopy(adapted)
    if lora_layers(merged):
        merge_lora_weights(merged)
    difference, largest = _difference(adapted, merged, batch, outputs)
    return merged, difference, difference / max(largest, 1e-12)


def quantized_difference(network: nn.Module, merged: nn.Module, batch: Any, outputs: Outputs = call) -> float | None:
    """Return how far the answers of a merged network are from those of its adapters over the quantized base.

    Args:
        network: Adapted; it is not changed.
        merged: Its merged copy, on the CPU.
        batch: Batch for `outputs`, on the network's device.
        outputs: Returns a network's answer to a batch as one tensor.

    Returns:
        The largest absolute difference divided by the largest absolute answer; None if the base is not quantized.
    """
    if not packed_layers(network):
        return None
    found = _answers(copy.deepcopy(network).float(), batch, outputs).cpu()
    expected = _answers(merged, tree_map_only(Tensor, Tensor.cpu, batch), outputs)
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def _difference(adapted: nn.Module, merged: nn.Module, batch: Any, outputs: Outputs) -> tuple[float, float]:
    """Return the largest absolute difference of two networks' answers in fp32, and the largest absolute answer."""
    expected, found = _answers(adapted, batch, outputs), _answers(merged, batch, outputs)
    return float((expected - found).abs().max()), float(expected.abs().max())


def _answers(network: nn.Module, batch: Any, outputs: Outputs) -> Tensor:
    """Return the answers of a network in fp32 to a batch, as doubles."""
    device = next(network.parameters()).device.type
    # a batch in the 16 bits of its network would not fit the copies
    batch = tree_map_only(Tensor, lambda value: value.float() if value.is_floating_point() else value, batch)
    with torch.no_grad(), full_precision(device), evaluation_mode(network):
        return outputs(network, batch).double()


def _changed_by_merging(model: nn.Module, batch: Any, outputs: Outputs) -> str:
    """Return the path of the layer that changes the answers most if it alone is merged."""
    adapted = unquantize(copy.deepcopy(model)).float()
    changes = {}
    for path, layer in lora_layers(adapted).items():
        merged = copy.deepcopy(adapted)
        set_module(merged, path, copy.deepcopy(layer).plain_layer(True))
        changes[path] = _difference(adapted, merged, batch, outputs)[0]
    return max(changes, key=lambda path: changes[path])
