"""Which adapters a pass called, and what is wrong with their gradients after it."""

import contextlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import AdapterLayer, record_calls
from eomt.verification.discovery import Adapter, label_of
from eomt.verification.findings import Finding, Severity
from eomt.verification.rounding import values_of

# what a gradient says that another backward pass does not confirm
ROUNDED = "gets a gradient of rounding alone, where terms cancel to zero: it cannot learn from this batch"


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
        return (
            "no_effect",
            "its layer's answer does not depend on it: was its forward replaced, or is it run with adapters disabled?",
        )


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


def is_silent(adapter: Adapter, calls: Calls) -> bool:
    """Return whether an adapter is never called; of other libraries' layers, gradients are a sign of life, too."""
    return not calls.has(adapter) and (adapter.is_own or all(tensor.grad is None for tensor in adapter.pair))


def not_called(adapter: Adapter, when: str, is_excused: bool) -> Finding:
    """Return the finding for an adapter that is not called.

    Args:
        adapter: The adapter.
        when: "training" or "evaluation".
        is_excused: Whether it is an expert that no token chose.
    """
    if is_excused:
        seen = f"is an expert's, which this batch does not call in {when}"
        return Finding("not_called", adapter.path, seen, "see whether a larger batch does", "warning")
    remedy = "what reads a layer's weight, or never runs it, leaves the adapter out: take it from the targets"
    return Finding("not_called", adapter.path, f"is never called in {when}", remedy)


def adapter_findings(
    adapters: list[Adapter],
    where: str,
    calls: Calls,
    is_excused: Callable[[str, str], bool],
    kind: str | None = None,
    rounded: Set[Tensor] = frozenset(),
) -> list[Finding]:
    """Return a finding for each adapter one of whose tensors has no gradient, or a useless one.

    Args:
        adapters: Adapters after a backward pass.
        where: The rest of the sentence.
        calls: What was called.
        is_excused: Whether a path and a kind of finding are those of an expert that no token chose.
        kind: Of the findings; None takes it from the gradient.
        rounded: Tensors whose gradients are rounding alone.
    """
    found = []
    for adapter in adapters:
        if not calls.has(adapter) and not adapter.is_own and is_silent(adapter, calls):
            continue
        tensors = {name: value for name, value in adapter.tensors.items() if value.requires_grad}
        for name, value in reversed(tensors.items()):
            fault = gradient_fault([value], rounded)
            if fault is None:
                continue
            found_kind, seen = fault
            remedy = ""
            if found_kind == "no_gradient" and all(other.grad is None for other in tensors.values()):
                found_kind, remedy = calls.reason(adapter)
            severity: Severity = "warning" if is_excused(adapter.path, found_kind) else "fault"
            part = label_of(adapter, name)
            found.append(Finding(kind or found_kind, adapter.path, f"{seen} {where}", remedy, severity, part))
            break
    return found


def gradient_fault(parameters: list[nn.Parameter], rounded: Set[Tensor] = frozenset()) -> tuple[str, str] | None:
    """Return kind and words of what is wrong with the gradients of tensors that belong together.

    Some may be zero, but not all.

    Args:
        parameters: The tensors.
        rounded: Tensors whose gradients are rounding alone.
    """
    gradients = [values_of(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return "no_gradient", "gets no gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return "non_finite_gradient", "gets a gradient that is not finite"
    if not any(bool(gradient.any()) for gradient in gradients):
        return "zero_gradient", "gets a gradient of zero: it cannot learn from this batch"
    if all(parameter in rounded for parameter in parameters if parameter.grad is not None):
        return "zero_gradient", ROUNDED
    return None
