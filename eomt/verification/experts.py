"""Experts: modules of which a batch calls a few, told by their names or by what a pass gives them."""

import contextlib
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from eomt.lora.adapter_layer import is_adapter_name
from eomt.lora.targets import is_inside
from eomt.verification.passes import tensors_in

# operations that hand out parts of a tensor, by the name of their node in the graph
PARTS = (
    "Index", "Gather", "Select", "Slice", "Split", "Unbind", "View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze",
    "Expand", "Permute", "Transpose", "TBackward", "Alias", "Clone", "ToCopy", "MaskedSelect",
)  # fmt: skip


@dataclass
class Experts:
    """The experts of a model.

    Attributes:
        chosen: Paths of those that got something in a training pass.
        idle: Paths of those that a router left out.
    """

    chosen: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)

    def has(self, path: str) -> bool:
        """Return whether a module or parameter is in an expert."""
        return re.search(r"(^|\.)experts?\.(experts?_?)?\d+", path) is not None or is_inside(
            path, self.chosen | self.idle
        )

    def excuse(self, path: str, kind: str) -> bool:
        """Return whether a finding in a training pass is none of an expert that this batch left out or gave no weight.

        Args:
            path: Of the module or parameter.
            kind: Of the finding.
        """
        if kind == "non_finite_gradient" or not self.has(path):
            return False
        return kind == "zero_gradient" or not is_inside(path, self.chosen)


@dataclass
class _Call:
    """The first call of a module: nodes of the graph, in and out; and whether all calls were without a number in them.

    Attributes:
        inputs: Nodes that made the inputs, the first of which may be None.
        outputs: Nodes that made the answer.
        is_chained: Whether it was given what one of its siblings answered, as it is.
        is_empty: Whether no call had an input with numbers in it.
    """

    inputs: list[Any]
    is_chained: bool
    is_empty: bool
    outputs: list[Any] = field(default_factory=list)


class ExpertWatch:
    """A watch over siblings in a list: modules of the same shapes, of which experts run side by side.

    Layers run in sequence: one is given what another answered. Experts are given parts of one tensor. What a pass did
    not call is a fault in a sequence, and the choice of a router among experts.

    Args:
        model: Any torch module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._siblings = _siblings(model)
        self._calls: list[dict[str, _Call]] = [{} for _ in self._siblings]
        self._answers: list[list[weakref.ref[Tensor]]] = [[] for _ in self._siblings]
        # groups for which a router answered before the first of them was called
        self._routed: set[int] = set()
        self._hooks: list[Any] = []
        for number, (path, children) in enumerate(self._siblings):
            holder = model.get_submodule(path.rpartition(".")[0])
            if any(len(children) in p.shape for p in holder.parameters(recurse=False) if p.dim() == 2):
                self._routed.add(number)
            inside = set(model.get_submodule(path).modules())
            for module in holder.modules():
                weight = module._parameters.get("weight")
                if module not in inside and weight is not None and weight.dim() == 2 and len(weight) == len(children):
                    self._hooks.append(module.register_forward_hook(self._router_hook(number)))
            for name, child in children.items():
                self._hooks.append(child.register_forward_pre_hook(self._before(number, name), with_kwargs=True))
                self._hooks.append(child.register_forward_hook(self._after(number, name)))

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def experts(self) -> Experts:
        """Return the experts that the calls showed."""
        found = Experts()
        for number, (_, children) in enumerate(self._siblings):
            calls = self._calls[number]
            if self._is_choice(number, children, calls):
                got = {name for name, call in calls.items() if not call.is_empty}
                found.chosen |= got
                found.idle |= set(children) - got
        return found

    def _is_choice(self, number: int, children: dict[str, nn.Module], calls: dict[str, _Call]) -> bool:
        if not calls or any(call.is_chained for call in calls.values()) or _is_sequence(list(calls.values())):
            return False
        if number in self._routed or any(call.is_empty for call in calls.values()):
            return True
        sources = {_source(call.inputs[0]) for call in calls.values() if call.inputs}
        # without a graph, it is not known what depends on what
        is_known = all(call.outputs for call in calls.values())
        return is_known and len(sources) == 1 and 1 < len(calls) < len(children)

    def _router_hook(self, number: int) -> Any:
        def hook(*_: Any) -> None:
            if not self._calls[number]:
                self._routed.add(number)

        return hook

    def _before(self, number: int, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            tensors = list(tensors_in((inputs, named)))
            is_empty = bool(tensors) and not tensors[0].numel()
            if name in self._calls[number]:
                self._calls[number][name].is_empty &= is_empty
                return
            is_chained = any(ref() is tensor for ref in self._answers[number] for tensor in tensors)
            self._calls[number][name] = _Call([tensor.grad_fn for tensor in tensors], is_chained, is_empty)

        return hook

    def _after(self, number: int, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            call = self._calls[number][name]
            if not call.outputs:
                tensors = list(tensors_in(output))
                call.outputs = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
                self._answers[number] += [weakref.ref(tensor) for tensor in tensors]

        return hook


@contextlib.contextmanager
def watched_experts(model: nn.Module) -> Iterator[ExpertWatch]:
    """Watch the calls of siblings within."""
    watch = ExpertWatch(model)
    try:
        yield watch
    finally:
        watch.close()


def _siblings(model: nn.Module) -> list[tuple[str, dict[str, nn.Module]]]:
    """Return the path of each list in which something is trained, and its modules of one shape by their paths."""
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.ModuleDict) or is_adapter_name(f"{path}.weight"):
            continue
        groups: dict[Any, dict[str, nn.Module]] = {}
        for name, child in module.named_children():
            shapes = sorted(tuple(p.shape) for key, p in child.named_parameters() if not is_adapter_name(key))
            groups.setdefault(tuple(shapes), {})[f"{path}.{name}" if path else name] = child
        for shapes, children in groups.items():
            trained = any(p.requires_grad for child in children.values() for p in child.parameters())
            if shapes and len(children) > 1 and trained:
                found.append((path, children))
    return found


def _is_sequence(calls: list[_Call]) -> bool:
    """Return whether what the last was given depends on what another answered."""
    others = {node for call in calls[:-1] for node in call.outputs}
    if not others:
        return False
    # nodes that are older than the first answer lead to none
    first = min(node._sequence_nr() for node in others)
    waiting, seen = [node for node in calls[-1].inputs if node is not None], set()
    while waiting:
        node = waiting.pop()
        if node in others:
            return True
        if node not in seen and node._sequence_nr() >= first:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions if following is not None]
    return False


def _source(node: Any) -> Any:
    """Return the node of the tensor of which an input is a part; None where it has no graph."""
    while node is not None and node.name().startswith(PARTS):
        node = node.next_functions[0][0]
    return node
