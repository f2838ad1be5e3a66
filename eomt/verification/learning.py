"""The passes of the audit: what is called, what the loss and the answers depend on, and how."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import AdapterLayer, record_calls
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.utils.modes import evaluation_mode, isolated_randomness, training_mode
from eomt.verification.collapse import logits_of
from eomt.verification.discovery import Adapter, is_expert
from eomt.verification.findings import Finding, Severity
from eomt.verification.gates import watched_gates
from eomt.verification.passes import Loss, Outputs, answer_of, loss_of, ordinary
from eomt.verification.restored import whole_depth

# in full fine-tuning, the share of trainable values without a gradient that may be parts a task has no use for
UNUSED = 0.1


@dataclass
class Calls:
    """The layers of adapters that a pass called, those of this package and others.

    Attributes:
        own: Layers of this package.
        others: Other layers -> whether they ran with gradients.
        acting: Those of them whose answer depends on their adapter.
    """

    own: set[AdapterLayer] = field(default_factory=set)
    others: dict[nn.Module, bool] = field(default_factory=dict)
    acting: set[nn.Module] = field(default_factory=set)

    def has(self, adapter: Adapter) -> bool:
        """Return whether the layer of an adapter was called."""
        return adapter.layer in self.own or adapter.layer in self.others

    def reason(self, adapter: Adapter) -> tuple[str, str]:
        """Return kind and remedy for an adapter that was called and got no gradient at all."""
        if not self.others.get(adapter.layer, True):
            return "no_gradient", "it runs under no_grad, or in checkpointing with use_reentrant=True"
        if adapter.is_own or adapter.layer in self.acting:
            return "unreached", "the loss does not see this branch; take it from the targets"
        return "no_effect", "its layer's answer does not depend on it: see whether its forward was replaced"


@contextlib.contextmanager
def watched_calls(adapters: list[Adapter]) -> Iterator[Calls]:
    """Collect the layers of adapters that are called within."""
    calls = Calls()
    hooks = []

    def note(adapter: Adapter) -> Callable[..., None]:
        layer, pair = adapter.layer, {id(tensor) for tensor in adapter.pair}

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls.others[layer] = calls.others.get(layer, False) or torch.is_grad_enabled()
            # what answers no tensor, or a part of an adapter, is not looked into
            if module is not layer or not isinstance(output, Tensor) or _depends(output, inputs, pair):
                calls.acting.add(layer)

        return hook

    for adapter in adapters:
        if not adapter.is_own:
            # a layer may be read for its weight while its small maps are called, or the other way round
            parts = [adapter.layer, *(adapter.layer.get_submodule(part) for part in _modules_of(adapter))]
            hooks += [part.register_forward_hook(note(adapter)) for part in dict.fromkeys(parts)]
    try:
        with record_calls() as calls.own:
            yield calls
    finally:
        for handle in hooks:
            handle.remove()


def _depends(output: Tensor, inputs: Any, parameters: set[int]) -> bool:
    """Return whether an answer depends on one of some parameters by another way than through the inputs."""
    seen = {value.grad_fn for value in inputs if isinstance(value, Tensor)} - {None}
    waiting = [output.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in parameters:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False


def _modules_of(adapter: Adapter) -> list[str]:
    """Return the paths, within its layer, of the modules that hold an adapter's pair."""
    paths = [name.rpartition(".")[0] for name in list(adapter.tensors)[:2]]
    return [path for path in paths if path and hasattr(adapter.layer.get_submodule(path), "weight")]


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


def training_findings(model: nn.Module, batch: Any, loss: Loss, adapters: list[Adapter]) -> list[Finding]:
    """Return what is found in a training pass: calls, gradients, gates, statistics that drift, and what it freezes."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = _pass_findings(model, batch, loss, adapters)
    remedy = "see what train() and the forward pass do with requires_grad"
    now = dict(model.named_parameters())
    frozen = [name for name in trained if name in now and not now[name].requires_grad]
    return [*(Finding("frozen", name, "is frozen again in a training pass", remedy) for name in frozen), *found]


def _pass_findings(model: nn.Module, batch: Any, loss: Loss, adapters: list[Adapter]) -> list[Finding]:
    with (
        as_in_training(model),
        whole_depth(model),
        torch.enable_grad(),
        watched_calls(adapters) as calls,
        watched_gates(model) as gates,
    ):
        statistics = _statistics(model)
        value = loss_of(loss, model, batch)
        drifted = [path for path, (module, mean) in statistics.items() if not torch.equal(module.running_mean, mean)]
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
            seen = f"the loss is {value.item()}"
            remedy = "look for such values in batch and weights, and for a division by zero"
            return [*_not_finite(model), Finding("loss_not_finite", "", seen, remedy)]
        value.backward()
    found = [_not_called(adapter, "training") for adapter in adapters if _is_silent(adapter, calls)]
    found += adapter_findings(adapters, "in training", calls)
    found += _others(model, adapters)
    found += gates.findings()
    for path in drifted:
        seen = "is frozen, but its running statistics follow the training batches and change the base"
        remedy = "keep it in evaluation mode (eval() after train()), or train and save it"
        found.append(Finding("drifting_statistics", path, seen, remedy))
    return found


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


def _statistics(model: nn.Module) -> dict[str, tuple[Any, Tensor]]:
    """Return path -> layer and its running mean, of normalization layers without anything that is trained."""
    return {
        path: (module, module.running_mean.clone())
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and module.running_mean is not None
        and not any(parameter.requires_grad for parameter in module.parameters())
    }


def _is_silent(adapter: Adapter, calls: Calls) -> bool:
    """Return whether an adapter is never called; of other libraries' layers, gradients are a sign of life, too."""
    return not calls.has(adapter) and (adapter.is_own or all(tensor.grad is None for tensor in adapter.pair))


def _not_called(adapter: Adapter, when: str) -> Finding:
    remedy = "what reads a layer's weight, or never runs it, leaves the adapter out: take it from the targets"
    # an expert that no token chose is no fault
    severity: Severity = "warning" if is_expert(adapter.path) else "fault"
    return Finding("not_called", adapter.path, f"is never called in {when}", remedy, severity)


def adapter_findings(adapters: list[Adapter], where: str, calls: Calls, kind: str | None = None) -> list[Finding]:
    """Return a finding for each adapter one of whose tensors has no gradient, or a useless one.

    Args:
        adapters: Adapters after a backward pass.
        where: The rest of the sentence.
        calls: What was called.
        kind: Of the findings; None takes it from the gradient.
    """
    found = []
    for adapter in adapters:
        if not calls.has(adapter) and not adapter.is_own and _is_silent(adapter, calls):
            continue
        tensors = {name: value for name, value in adapter.tensors.items() if value.requires_grad}
        for name, value in reversed(tensors.items()):
            fault = gradient_fault([value])
            if fault is None:
                continue
            found_kind, seen = fault
            remedy = ""
            if found_kind == "no_gradient" and all(other.grad is None for other in tensors.values()):
                found_kind, remedy = calls.reason(adapter)
            severity: Severity = (
                "warning" if is_expert(adapter.path) and found_kind != "non_finite_gradient" else "fault"
            )
            part = name.partition(".")[0]
            found.append(Finding(kind or found_kind, adapter.path, f"{seen} {where}", remedy, severity, part))
            break
    return found


def gradient_fault(parameters: list[nn.Parameter]) -> tuple[str, str] | None:
    """Return kind and words of what is wrong with the gradients of tensors that belong together.

    Some may be zero, but not all.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return "no_gradient", "gets no gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return "non_finite_gradient", "gets a gradient that is not finite"
    if not any(bool(gradient.any()) for gradient in gradients):
        return "zero_gradient", "gets a gradient of zero: it cannot learn from this batch"
    return None


def _others(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Return a finding for what is trained beside adapters, and gets no gradient."""
    found = []
    done = adaptation(model)
    # under all of their names: a module may hold nothing but a tied weight
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path in done.trained_in_full if done else []:
        if fault := gradient_fault([p for name, p in trained.items() if is_inside(name, [path])]):
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
        severity: Severity = "warning" if unused or is_expert(name) else "fault"
        seen = "is trained but gets no gradient: its output is not used, or is detached"
        found.append(Finding("no_gradient", name, seen, severity=severity))
    for name, parameter in rest.items():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            found.append(Finding("non_finite_gradient", name, "gets a gradient that is not finite"))
    if done is None:
        found += _dead_modules(rest)
    return found


def _dead_modules(rest: dict[str, nn.Parameter]) -> list[Finding]:
    """Return a finding for each module trained in full all of whose gradients are zero."""
    modules: dict[str, list[nn.Parameter]] = {}
    for name, parameter in rest.items():
        if parameter.grad is not None:
            modules.setdefault(name.rpartition(".")[0], []).append(parameter)
    return [
        Finding("zero_gradient", path, "is trained, and gets a gradient of zero: it cannot learn from this batch")
        for path, parameters in modules.items()
        if not any(bool(parameter.grad.any()) for parameter in parameters if parameter.grad is not None)
    ]


@dataclass
class Evaluation:
    """What two evaluation passes showed.

    Attributes:
        findings: Adapters that are not called or have no effect, and answers that differ between modes.
        logits: Class logits, classes last; None where it is not known which they are.
    """

    findings: list[Finding]
    logits: Tensor | None = None


def evaluation(model: nn.Module, batch: Any, outputs: Outputs, adapters: list[Adapter]) -> Evaluation:
    """Look at adapters in two evaluation passes.

    One with gradients, which show for each adapter whether it acts, and one without, since fast paths that bypass
    adapters run only there. Both must give the same answers.
    """
    answers_seen: list[Any] = []
    with evaluation_mode(model):
        # no hooks of other layers here: they would switch fast paths off
        with torch.no_grad(), isolated_randomness(), record_calls() as called:
            without = answer_of(outputs, model, batch)
        handle = model.register_forward_hook(lambda module, inputs, output: answers_seen.append(output))
        try:
            with torch.enable_grad(), isolated_randomness(), watched_calls(adapters) as calls:
                answers = answer_of(outputs, model, batch)
                if answers.requires_grad:
                    (answers * torch.randn_like(answers)).sum().backward()
        finally:
            handle.remove()
    calls.own = called
    found = [_not_called(adapter, "evaluation") for adapter in adapters if _is_silent(adapter, calls)]
    where = "in evaluation: it does not change the output"
    # masks and classes have no gradient, nor has what is answered under no_grad
    if answers.requires_grad or not adapters or not _acts(model, batch, outputs, adapters, without):
        found += adapter_findings(adapters, where, calls, "no_effect")
    if answers.requires_grad:
        found += _silent_parts(model, adapters)
    found += _difference(model, answers.detach(), without)
    return Evaluation(found, logits_of(answers_seen[-1]) if answers_seen else None)


def _silent_parts(model: nn.Module, adapters: list[Adapter]) -> list[Finding]:
    """Return a warning for each module trained beside something frozen that answers in evaluation do not depend on."""
    if adaptation(model) is not None or all(parameter.requires_grad for parameter in model.parameters()):
        return []
    known = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known and not is_expert(name):
            parts.setdefault(name.rpartition(".")[0], []).append(parameter)
    remedy = "fine for what the loss alone needs, such as an auxiliary head"
    seen = "is trained, and does not change the output in evaluation"
    return [
        Finding("no_effect", path, seen, remedy, "warning")
        for path, parameters in parts.items()
        if all(parameter.grad is None for parameter in parameters)
    ]


def _acts(model: nn.Module, batch: Any, outputs: Outputs, adapters: list[Adapter], answers: Tensor) -> bool:
    """Return whether answers without a graph are others without the adapters, or with larger ones.

    A small change may turn no class of a hard answer. Each B is left changed.
    """
    ups = [adapter.pair[1] for adapter in adapters if adapter.pair[1].is_floating_point()]
    values = [up.detach().clone() for up in ups]
    with evaluation_mode(model), torch.no_grad():
        for factor in (0.0, 30.0, 1000.0):
            for up, value in zip(ups, values, strict=True):
                up.copy_(value * factor)
            with isolated_randomness():
                changed = answer_of(outputs, model, batch)
            if not torch.equal(changed, answers):
                return True
    return False


def _difference(model: nn.Module, answers: Tensor, without: Tensor) -> list[Finding]:
    """Return a finding if answers differ between no_grad and grad mode, or are NaN."""
    if bool(without.isnan().any()):
        return [Finding("answers_not_finite", "", "answers in evaluation are NaN", "look for such weights or inputs")]
    finite = ordinary(without)
    if not bool(finite.any()):
        return []
    difference = float((answers - without)[finite].abs().max())
    # 16 bits keep two to three figures through a network; the comparison makes NaN a fault, too
    half = torch.is_autocast_enabled(without.device.type) or any(p.itemsize == 2 for p in model.parameters())
    if difference <= (0.02 if half else 0.005) * float(without[finite].abs().max()):
        return []
    seen = f"answers in evaluation differ by {difference:.1e} between no_grad and grad mode (is an adapter bypassed?)"
    return [Finding("bypassed", "", seen)]
