"""What a training pass does around what is trained: frozen states that move, and what the model does not hold."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eomt.utils.modes import is_trained
from eomt.verification.findings import Finding
from eomt.verification.restored import PACKED

# the largest change, as a share, that a state at rest shows, such as the vectors of spectral norm
AT_REST = 1e-3
# states that a part of the training keeps for itself
OWN_STATES = re.compile(r"queue|bank|memor|cache|ptr|pointer|count|step|num_", re.IGNORECASE)


class States:
    """Buffers of a model before a training pass.

    Args:
        model: Any torch module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers = {
            (path, name): (buffer, buffer.detach().clone())
            for path, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point() and 1 < buffer.numel() <= PACKED
        }

    def findings(self, has_adapters: bool) -> list[Finding]:
        """Return a finding for each layer that is frozen, and whose states moved: a fault, or a warning by chance.

        Args:
            has_adapters: Whether what is trained is saved without what is around it.
        """
        found: dict[str, Finding] = {}
        for (path, name), (_, before) in self._buffers.items():
            module = self._model.get_submodule(path)
            now = module._buffers.get(name)
            if now is None or now.shape != before.shape or torch.equal(now, before):
                continue
            remedy = "keep it in evaluation mode (eval() after train()), or train and save it"
            if isinstance(module, nn.modules.batchnorm._NormBase):
                if name == "running_mean" and not is_trained(module):
                    seen = "is frozen, but its running statistics follow the training batches and change the base"
                    found[path] = Finding("drifting_statistics", path, seen, remedy)
                continue
            if torch.allclose(now.float(), before.float(), rtol=AT_REST, atol=AT_REST * float(before.abs().max())):
                continue
            if not is_trained(self._holder(path)):
                seen = f"is frozen, but its state {name} moves in training and changes the base"
                found[path] = Finding("drifting_statistics", path, seen, remedy)
            elif (
                has_adapters
                and not any(parameter.requires_grad for parameter in module.parameters(recurse=False))
                and ".parametrizations." not in f".{path}."
                and not OWN_STATES.search(name)
            ):
                where = f"{path}.{name}" if path else name
                seen = "moves in training: an adapter's file does not hold it"
                found[where] = Finding("drifting_statistics", where, seen, "save it with the adapter", "warning")
        return list(found.values())

    def _holder(self, path: str) -> nn.Module:
        """Return the innermost module around a state that has parameters."""
        module = self._model.get_submodule(path)
        while path and next(module.parameters(), None) is None:
            path = path.rpartition(".")[0]
            module = self._model.get_submodule(path)
        return module


def strangers(model: nn.Module, value: Tensor, known: Iterable[Tensor]) -> list[Finding]:
    """Return a finding for parameters that a loss depends on, and that neither the model nor an optimizer holds.

    Args:
        model: Any torch module.
        value: Its loss, with a graph.
        known: Parameters of the model, of what is beside it, and of optimizers.
    """
    held = {id(parameter) for parameter in known}
    found = {id(leaf) for leaf in _leaves(value) if isinstance(leaf, nn.Parameter) and id(leaf) not in held}
    if not found:
        return []
    where = next((place for place, inside in _collections(model) if inside & found), "")
    verb = "holds" if where else "the loss depends on"
    seen = f"{verb} {len(found)} tensors that are to be trained, and are no parameters of the model"
    return [Finding("not_in_model", where, seen, "put modules into a ModuleList or a ModuleDict, or freeze them")]


def _leaves(value: Tensor) -> Iterator[Any]:
    """Yield what the graph of a tensor ends at, once each."""
    waiting = [value.grad_fn]
    seen = set(waiting)
    while waiting:
        node: Any = waiting.pop()
        yield getattr(node, "variable", None)
        following = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= following
        waiting += following


def _collections(model: nn.Module) -> Iterable[tuple[str, set[int]]]:
    """Yield the plain lists and dictionaries of a model in which modules are: path, and the ids of their parameters."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and isinstance(value, list | tuple | dict):
                parts = value.values() if isinstance(value, dict) else value
                inside = {id(p) for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
                yield (f"{path}.{name}" if path else name), inside
