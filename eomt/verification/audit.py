"""Proof that every adapter acts and learns, on one batch, in at most three passes.

It takes any torch module; the caller gives functions that compute a loss and an output from a batch.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, lora_layers, record_calls
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.lora.trainable import check_trainable
from eomt.utils.loaded import loaded_in
from eomt.utils.modes import evaluation_mode, isolated_randomness, training_mode

Loss = Callable[[nn.Module, Any], Tensor]
Outputs = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        faults: A sentence for each fault that was found.
        adapters: Paths of the adapted layers.
        trained_in_full: Paths of the modules that are trained in full beside the adapters.
    """

    faults: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    trained_in_full: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    def __str__(self) -> str:
        """Return the result in one line."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            return self.faults[0] + more
        parts = [f"all {len(self.adapters)} adapters act and learn"] if self.adapters else []
        if self.trained_in_full:
            names = ", ".join(self.trained_in_full)
            parts.append(f"{len(self.trained_in_full)} modules trained in full learn ({names})")
        return "; ".join(parts) or "every parameter is trained"

    def require(self) -> None:
        """Stop if there are faults.

        Raises:
            UserError: If there are; the message has the first one and how many more there are.
        """
        if self.faults:
            raise UserError(f"audit: {self}")


def audit(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    outputs: Outputs | None = None,
    optimizers: Iterable[Optimizer] | None = None,
    allow_random_base: bool = False,
) -> AuditReport:
    """Check that each adapter of a model acts and learns.

    These are checked, on one batch and in at most three passes:

    - Exactly the parameters that the LoRAConfig implies are trainable, and each is in an optimizer.
    - Each adapter is called in training and in evaluation.
    - A and B of each adapter get a finite gradient other than zero, from the loss in training and from the output in
      evaluation. Everything else that is trained gets a gradient.
    - The output is the same with gradients and under no_grad.
    - No frozen tensor is random, that is, was never read from a file.

    Random states, buffers, gradients and weights are afterwards as before.

    Args:
        model: Any torch module, adapted by `apply_lora` or `load_adapter`, or plain.
        batch: Batch for `loss` and `outputs`, on the model's device.
        loss: Returns the scalar loss of a model on a training batch, with its graph.
        outputs: Returns a model's answer to a batch as one tensor; None calls the model with the batch.
        optimizers: Optimizers of the training; None does not check them.
        allow_random_base: Let frozen weights be random, as in a smoke test without pre-trained weights.

    Raises:
        UserError: If other parameters are trainable than the model's LoRAConfig implies.
    """
    check_trainable(model)
    faults = _optimizer_faults(model, optimizers) if optimizers is not None else []
    faults += [] if allow_random_base else random_base_faults(model)
    # faults that are there before the first pass would only cause more in it
    faults = faults or _faults_in_passes(model, batch, loss, outputs or call)
    done = adaptation(model)
    return AuditReport(tuple(faults), tuple(lora_layers(model)), tuple(done.trained_in_full if done else ()))


def random_base_faults(model: nn.Module) -> list[str]:
    """Return a fault if a frozen tensor is random: a low-rank change of a random matrix is no adaptation."""
    loaded = loaded_names(model)
    random = [name for name, p in model.named_parameters() if not p.requires_grad and name not in loaded]
    if not random:
        return []
    return [
        f"{random[0]!r} is frozen but was never loaded ({len(random)} such tensors); load it (`pretrained`), train it "
        "(trainable_modules) or, for a smoke test, set the audit's allow_random_base to true"
    ]


def loaded_names(model: nn.Module) -> set[str]:
    """Return the names in `model` of all tensors that were read from files, here or in modules inside."""
    found = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name for name in loaded_in(module)}
    for path, layer in lora_layers(model).items():
        # a layer of PEFT holds the plain one, whose tensors were recorded under the names before
        holder = layer.base_weight_name.removesuffix("weight")
        found |= {f"{path}.{holder}{part}" for part in ("weight", "bias") if f"{path}.{part}" in found}
    return found


def call(model: nn.Module, batch: Any) -> Tensor:
    """Return all floating-point tensors of a model's answer, as one vector.

    Args:
        model: Called as `model(**batch)` with a mapping, `model(*batch)` with a tuple or list, else `model(batch)`.
        batch: Input of the model.

    Raises:
        UserError: If the model does not take such a batch, or its answer holds no such tensor.
    """
    keywords, positions = (batch, ()) if isinstance(batch, Mapping) else ({}, batch)
    if not isinstance(positions, tuple | list):
        positions = (positions,)
    name = type(model).__name__
    try:
        inspect.signature(model.forward).bind(*positions, **keywords)
    except TypeError as error:
        raise UserError(f"outputs: {name} cannot be called with the batch ({error}); give outputs=") from error
    answer = model(*positions, **keywords)
    tensors = [value for value in _tensors(answer) if value.is_floating_point()]
    if not tensors:
        raise UserError(f"outputs: {name} answers {type(answer).__name__}, without real numbers; give outputs=")
    return torch.cat([value.flatten() for value in tensors])


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping | tuple | list):
        for value in answer.values() if isinstance(answer, Mapping) else answer:
            yield from _tensors(value)
    elif is_dataclass(answer):
        for field in fields(answer):
            yield from _tensors(getattr(answer, field.name))


def _optimizer_faults(model: nn.Module, optimizers: Iterable[Optimizer]) -> list[str]:
    """Return a fault for each trainable tensor that is in no optimizer."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return [
        f"{name!r} is trainable but in no optimizer; see configure_optimizers"
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in held
    ]


def _faults_in_passes(model: nn.Module, batch: Any, loss: Loss, outputs: Outputs) -> list[str]:
    """Return the faults in a training pass and, where there are adapters, in two evaluation passes."""
    layers = lora_layers(model)
    # eager: else these passes would be compiled too, and reach dynamo's limit of recompilations
    with isolated_randomness(), untouched(model), torch.compiler.set_stance("force_eager"):
        for layer in layers.values():
            # while B is zero it does not change the output and A gets no gradient; any other value shows both
            nn.init.normal_(layer.lora_b, std=0.02)
        faults = _training_faults(model, batch, loss, layers)
        if layers:
            model.zero_grad()
            faults += _evaluation_faults(model, batch, outputs, layers)
    return faults


def _training_faults(model: nn.Module, batch: Any, loss: Loss, layers: dict[str, AdapterLayer]) -> list[str]:
    """Return a fault for each adapter that is not called, and for what gets no gradient from the loss."""
    with training_mode(model), torch.enable_grad(), record_calls() as called:
        value = loss(model, batch)
        if not value.requires_grad:
            return [
                "the loss does not depend on anything trainable "
                "(is the network run under no_grad, or checkpointed with use_reentrant=True?)"
            ]
        value.backward()
    faults = [f"{path!r} is never called in training" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in training")
    done = adaptation(model)
    heads = done.trained_in_full if done else []
    # under all of their names: a module may hold nothing but a tied weight
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path in heads:
        if fault := _gradient_fault([p for name, p in trained.items() if is_inside(name, [path])]):
            faults.append(f"{path!r}, trained in full, {fault}")
    for name, parameter in trained.items():
        if parameter.grad is None and not is_inside(name, layers):
            faults.append(f"{name!r} is trained but gets no gradient: its output is not used, or is detached")
    return faults


def _evaluation_faults(model: nn.Module, batch: Any, outputs: Outputs, layers: dict[str, AdapterLayer]) -> list[str]:
    """Return a fault for each adapter that is not called or does not change the output.

    Two passes: one with gradients, which show for each adapter whether it acts, and one without, since fast paths that
    bypass adapters run only there. Both must give the same answers.
    """
    with evaluation_mode(model):
        with torch.no_grad(), isolated_randomness(), record_calls() as called:
            without = outputs(model, batch)
        with torch.enable_grad(), isolated_randomness():
            answers = outputs(model, batch)
            if answers.requires_grad:
                (answers * torch.randn_like(answers)).sum().backward()
    faults = [f"{path!r} is never called in evaluation" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in evaluation: it does not change the output")
    difference = float((answers.detach() - without).abs().max())
    # 16 bits keep two to three figures through a network
    half = torch.is_autocast_enabled(without.device.type) or any(p.itemsize == 2 for p in model.parameters())
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
    """Return what is wrong with the gradients of tensors that belong together: some may be zero, but not all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return "gets no gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return "gets a gradient that is not finite"
    if not any(bool(gradient.any()) for gradient in gradients):
        return "gets a gradient of zero: it cannot learn from this batch"
    return None


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the adapters' B, buffers and gradients back afterwards."""
    kept: dict[Tensor, Tensor] = {}
    for layer in lora_layers(model).values():
        kept[layer.lora_b] = layer.lora_b.detach().clone()
    kept |= {buffer: buffer.clone() for buffer in model.buffers()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
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
