"""Proof that every adapter acts and learns, on one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, lora_layers, record_calls
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.tasks.base import AdaptationTask
from eomt.utils.modes import evaluation_mode


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Puts back adapters, buffers and gradients."""
    kept: dict[Tensor, Tensor] = {}
    for layer in lora_layers(network).values():
        kept[layer.lora_b] = layer.lora_b.detach().clone()
    kept |= {buffer: buffer.clone() for buffer in network.buffers()}
    gradients = {parameter: parameter.grad for parameter in network.parameters()}
    for parameter in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept.items():
                tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient


def loaded_names(model: nn.Module) -> set[str]:
    """Names, relative to `model`, of all tensors that some loader recorded."""
    found = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name for name in getattr(module, "loaded", ())}
    for path, layer in lora_layers(model).items():
        # PEFT's layers hold the plain one, which was loaded under the name that is now theirs
        holder = layer.base_weight_name.removesuffix("weight")
        found |= {f"{path}.{holder}{part}" for part in ("weight", "bias") if f"{path}.{part}" in found}
    return found


def first_supervised(task: AdaptationTask, batches: Iterable[Any]) -> Any:
    """The first batch that has anything to learn from: random crops of sparse labels may have nothing.

    Raises:
        UserError: if none has.
    """
    for batch in batches:
        if task.is_supervised(batch):
            return batch
    raise UserError("data: no batch of the first epoch holds a label to learn from; see ignore_labels and crop_size")


def check_optimiser(task: AdaptationTask, optimizers: list[Any]) -> None:
    """That every trainable tensor is in an optimiser.

    Raises:
        UserError: naming one that is not.
    """
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in task.network.named_parameters():
        if parameter.requires_grad and id(parameter) not in held:
            raise UserError(f"AdapterAudit: {name!r} is trainable but in no optimiser; see configure_optimizers")


def check_base_is_loaded(network: nn.Module) -> None:
    """That no frozen tensor is random: a low-rank change of a random matrix is no adaptation.

    Raises:
        UserError: naming one that no loader filled.
    """
    loaded = loaded_names(network)
    random = [name for name, p in network.named_parameters() if not p.requires_grad and name not in loaded]
    if random:
        raise UserError(
            f"AdapterAudit: {random[0]!r} is frozen but was never loaded ({len(random)} such tensors); load it "
            "(`pretrained`), train it (trainable_modules), or, for a smoke test, give --audit.allow_random_base true"
        )


def refuse(faults: list[str]) -> None:
    """Stops on faults.

    Raises:
        UserError: naming the first, if there is any.
    """
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"AdapterAudit: {faults[0]}{more}")


def audit_batch(task: AdaptationTask, batch: dict[str, Any]) -> list[str]:
    """Faults found in a training pass and, where there are adapters, two evaluation passes; none if all is well."""
    layers = lora_layers(task.network)
    # eager: a compiled network would be compiled for these passes too, and run into dynamo's limit
    with isolate_rng(), untouched(task.network), torch.compiler.set_stance("force_eager"):
        for layer in layers.values():
            # B is zero at the start, and then neither reaches the output nor lets A learn; any other value shows both
            nn.init.normal_(layer.lora_b, std=0.02)
        faults = _training_faults(task, batch, layers)
        if layers:
            task.network.zero_grad()
            faults += _evaluation_faults(task, batch, layers)
    return faults


def _training_faults(task: AdaptationTask, batch: dict[str, Any], layers: dict[str, AdapterLayer]) -> list[str]:
    """Which adapters are not called, and what gets no gradient from the loss."""
    network = task.network
    with training_mode(task), torch.enable_grad(), record_calls() as called:
        loss = task.losses(batch)[0]["loss"]
        if not loss.requires_grad:
            return [
                "the loss does not depend on anything trainable "
                "(is the network run under no_grad, or checkpointed with use_reentrant=True?)"
            ]
        loss.backward()
    faults = [f"{path!r} is never called in training" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in training")
    done = adaptation(network)
    heads = done.trained_in_full if done else []
    # by all of their names: a module may hold nothing but a tied weight
    trained = {name: p for name, p in network.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path in heads:
        if fault := _gradient_fault([p for name, p in trained.items() if is_inside(name, [path])]):
            faults.append(f"{path!r}, trained in full, {fault}")
    for name, parameter in trained.items():
        if parameter.grad is None and not is_inside(name, layers):
            faults.append(f"{name!r} is trained but gets no gradient: its output is not used, or is detached")
    return faults


def _evaluation_faults(task: AdaptationTask, batch: dict[str, Any], layers: dict[str, AdapterLayer]) -> list[str]:
    """Which adapters are not called, or do not change the output.

    Two passes: with gradients, which tell of each adapter whether it acts, and without, as the fast paths that bypass
    adapters run only there. Both must give the same answers.
    """
    with evaluation_mode(task):
        with torch.no_grad(), isolate_rng(), record_calls() as called:
            without = task.outputs(task.network, batch)
        with torch.enable_grad(), isolate_rng():
            outputs = task.outputs(task.network, batch)
            if outputs.requires_grad:
                (outputs * torch.randn_like(outputs)).sum().backward()
    faults = [f"{path!r} is never called in evaluation" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in evaluation: it does not change the output")
    difference = float((outputs.detach() - without).abs().max())
    # 16 bits keep two to three figures through a network
    half = torch.is_autocast_enabled(without.device.type) or any(p.itemsize == 2 for p in task.network.parameters())
    # written so that NaN is a fault too
    if not difference <= (0.02 if half else 0.005) * float(without.abs().max()):
        faults.append(
            f"answers in evaluation differ by {difference:.1e} between no_grad and grad mode (is an adapter bypassed?)"
        )
    return faults


def _adapter_faults(layers: dict[str, AdapterLayer], where: str) -> list[str]:
    faults = []
    for path, layer in layers.items():
        for name in reversed(layer.adapter_tensors().values()):
            if fault := _gradient_fault([layer.get_parameter(name)]):
                faults.append(f"{name.partition('.')[0]} of {path!r} {fault} {where}")
                break
    return faults


def _gradient_fault(parameters: list[nn.Parameter]) -> str | None:
    """Of tensors that belong together: one of them may be zero for a batch, but not all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return "gets no gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return "gets a gradient that is not finite"
    if not any(bool(gradient.any()) for gradient in gradients):
        return "gets a gradient of zero: it cannot learn from this batch"
    return None


@contextlib.contextmanager
def training_mode(task: AdaptationTask) -> Iterator[None]:
    """Training mode within, each module's own mode afterwards."""
    with evaluation_mode(task):
        task.train()
        yield


def summarise(task: AdaptationTask) -> str:
    """What the audit found in order, in a line."""
    done = adaptation(task.network)
    parts = []
    if done and done.adapters:
        parts.append(f"all {len(done.adapters)} adapters act and learn")
    heads = done.trained_in_full if done else []
    if heads:
        parts.append(f"{len(heads)} modules trained in full learn ({', '.join(heads)})")
    return "; ".join(parts) or "every parameter is trained"
