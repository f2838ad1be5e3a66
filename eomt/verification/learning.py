"""The training pass of the audit: what is called, and what the loss depends on."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.utils.modes import training_mode
from eomt.verification.calls import adapter_findings, gradient_fault, is_silent, not_called, watched_calls
from eomt.verification.discovery import Adapter
from eomt.verification.experts import Experts, watched_experts
from eomt.verification.findings import Finding, Severity, named_part
from eomt.verification.gates import watched_gates
from eomt.verification.passes import Loss, loss_of, tensors_in
from eomt.verification.restored import whole_depth
from eomt.verification.rounding import in_half, rounding_alone, values_of
from eomt.verification.surroundings import States, strangers
from eomt.verification.writes import Writes

# in full fine-tuning, the share of trainable values without a gradient that may be parts a task has no use for
UNUSED = 0.1


def shake(tensors: list[nn.Parameter]) -> None:
    """Give tensors that are all zero random values: a pair that adds nothing gets half of its gradients."""
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and not bool(tensor.any()):
                tensor.normal_(std=0.02)


def shaken(model: nn.Module, adapters: list[Adapter]) -> list[nn.Parameter]:
    """Return what may be zero before the first step: pairs, and what is trained, such as a new head or a branch's gate.

    What lies before a head of zeros, or behind a gate of zero, gets a gradient from the second step on.
    """
    zero = [p for p in model.parameters() if p.requires_grad and not bool(p.detach().any())]
    return list(dict.fromkeys([*(tensor for adapter in adapters for tensor in adapter.pair), *zero]))


@dataclass
class Training:
    """What a training pass showed.

    Attributes:
        findings: About calls, gradients, gates, statistics that drift, and what the pass freezes.
        experts: The modules of which it called a few.
        answers: Whether what the model answered depends on anything trained.
        has_small: Whether gradients were so small that they were held against those of another backward pass.
    """

    findings: list[Finding] = field(default_factory=list)
    experts: Experts = field(default_factory=Experts)
    answers: bool = False
    has_small: bool = False


def training(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    adapters: list[Adapter],
    writes: Writes,
    beside: Iterable[nn.Parameter] = (),
) -> Training:
    """Look at adapters, and what else is trained, in a training pass with its gradients.

    Args:
        model: Any torch module.
        batch: Batch for `loss`.
        loss: Its loss.
        adapters: Those that are part of the answer.
        writes: Keeps what the forward pass writes to weights.
        beside: Parameters that optimizers hold beside the model.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    seen = Training()
    found = _pass_findings(model, batch, loss, adapters, writes, seen, beside)
    remedy = "see what train() and the forward pass do with requires_grad"
    now = dict(model.named_parameters())
    frozen = [name for name in trained if name in now and not now[name].requires_grad]
    seen.findings = [Finding("frozen", name, "is frozen again in a training pass", remedy) for name in frozen] + found
    return seen


def _pass_findings(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    adapters: list[Adapter],
    writes: Writes,
    seen: Training,
    beside: Iterable[nn.Parameter],
) -> list[Finding]:
    with (
        as_in_training(model),
        whole_depth(model),
        torch.enable_grad(),
        watched_calls(adapters) as calls,
        watched_gates(model) as gates,
        watched_experts(model) as watch,
        _noted(model, seen),
    ):
        states = States(model)
        with writes.watched():
            value = loss_of(loss, model, batch)
        seen.experts = watch.experts()
        drifted = states.findings(bool(adapters))
        if not value.requires_grad:
            return [
                Finding(
                    "no_graph",
                    "",
                    "the loss does not depend on anything trainable "
                    "(is the network run under no_grad, or checkpointed with use_reentrant=True?)",
                )
            ]
        if not value.isfinite():
            remedy = "look for such values in batch and weights, and for a division by zero"
            return [*_not_finite(model), Finding("loss_not_finite", "", f"the loss is {value.item()}", remedy)]
        unheld = strangers(model, value, [*model.parameters(), *writes.held, *beside])
        # another backward pass may be needed to tell rounding from what is learned
        value.backward(retain_graph=True)
        held = [parameter for parameter in model.parameters() if parameter.requires_grad]
        looked_at = rounding_alone(value, held, in_half(model, value))
        seen.has_small, rounded = looked_at is not None, looked_at or set()
    excuse = seen.experts.excuse
    silent = [adapter for adapter in adapters if is_silent(adapter, calls)]
    found = [not_called(adapter, "training", excuse(adapter.path, "not_called")) for adapter in silent]
    found += adapter_findings(adapters, "in training", calls, excuse, rounded=rounded)
    found += _others(model, adapters, seen.experts, rounded)
    found += gates.findings()
    found += drifted + unheld
    return found


@contextlib.contextmanager
def _noted(model: nn.Module, seen: Training) -> Iterator[None]:
    """Note within whether what the model answers depends on anything trained."""

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.answers |= any(tensor.requires_grad for tensor in tensors_in(output))

    handle = model.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _not_finite(model: nn.Module) -> list[Finding]:
    """Return a finding for each tensor that holds values which are not finite."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [
        Finding("weights_not_finite", name, "holds values that are not finite", "load it again, or start it anew")
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]


@contextlib.contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Set training mode within, but for normalization layers that were left in evaluation mode on purpose.

    That is, alone or with a part around them, while something that holds them is in training mode.
    """
    kept = [
        layer
        for module in model.modules()
        if module.training
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and not layer.training
    ]
    with training_mode(model):
        for module in kept:
            module.training = False
        yield


def _others(model: nn.Module, adapters: list[Adapter], experts: Experts, rounded: set[Tensor]) -> list[Finding]:
    """Return a finding for what is trained beside adapters, and gets no gradient."""
    found = []
    done = adaptation(model)
    # under all of their names: a module may hold nothing but a tied weight
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path in done.trained_in_full if done else []:
        if fault := gradient_fault([p for name, p in trained.items() if is_inside(name, [path])], rounded):
            found.append(Finding(fault[0], path, f", trained in full, {fault[1]}"))
    of_adapters = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    own = [adapter.path for adapter in adapters if adapter.is_own]
    rest = {n: p for n, p in trained.items() if id(p) not in of_adapters and not is_inside(n, own)}
    still = {name: p for name, p in rest.items() if p.grad is None}
    everything = all(parameter.requires_grad for parameter in model.parameters())
    share = sum(p.numel() for p in still.values()) / max(1, sum(p.numel() for p in rest.values()))
    # a task that trains everything may have no use for a token or a pooling layer
    unused = everything and share < UNUSED
    for name in still:
        severity: Severity = "warning" if unused or experts.excuse(name, "no_gradient") else "fault"
        seen = "is trained but gets no gradient: its output is not used, or is detached"
        found.append(Finding("no_gradient", name, seen, severity=severity))
    for name, parameter in rest.items():
        if parameter.grad is not None and not bool(values_of(parameter.grad).isfinite().all()):
            found.append(Finding("non_finite_gradient", name, "gets a gradient that is not finite"))
    if done is None:
        found += _dead_modules(rest, experts, rounded)
    return found


def _dead_modules(rest: dict[str, nn.Parameter], experts: Experts, rounded: set[Tensor]) -> list[Finding]:
    """Return a finding for each module trained in full all of whose gradients are zero, or rounding alone.

    A bias that softmax does not see, as that of keys, may be trained beside others that learn.
    """
    modules: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in rest.items():
        if parameter.grad is not None:
            modules.setdefault(name.rpartition(".")[0], {})[name] = parameter
    dead = {path: fault for path, held in modules.items() if (fault := gradient_fault(list(held.values()), rounded))}
    learns = len(dead) < len(modules)
    found = []
    for path, (kind, seen) in dead.items():
        held = modules[path]
        is_bias = all(parameter.dim() < 2 and parameter in rounded for parameter in held.values())
        if kind == "zero_gradient" and not (is_bias and learns):
            severity: Severity = "warning" if experts.excuse(path, kind) else "fault"
            found.append(Finding(kind, named_part(path, list(held)), f"is trained, and {seen}", "", severity))
    return found
