"""What goes wrong in the course of a training, seen without a pass: gradients, modes, and what should stay frozen."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eomt.verification.discovery import Adapter, find_adapters, label_of
from eomt.verification.expected import trainable_findings
from eomt.verification.experts import Experts
from eomt.verification.findings import Finding, Severity
from eomt.verification.rounding import values_of

# looks at gradients between two checks, and how many in a row must find none before it is said
LOOKS, IN_A_ROW = 4, 4
# the largest change of the size of a frozen weight that merging and unmerging leaves
STAYED = 1e-5
# steps that a scaler of fp16 may skip before one of them is made
SKIPPED = 20
# what a check without a pass can tell again
LIGHT = ("inactive", "disabled", "merged", "not_meant_to_train")


class Course:
    """Notes of a training between two checks.

    Args:
        model: Any torch module.
        every: Steps between two checks.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        self.model, self.every = model, every
        self._silent: dict[tuple[str, str], int] = {}
        self._in_training: list[tuple[str, nn.Module]] | None = None
        self._bases: dict[str, float] = {}
        self._skipped = 0

    def note(self, steps: int) -> None:
        """Note a step, before gradients are set to zero."""
        if self._in_training is None:
            self._in_training = [each for each in _modal(self.model) if each[1].training]
            self._bases = _bases(find_adapters(self.model))
        if self.every and steps % max(1, self.every // LOOKS) == 0:
            self._look()

    def _look(self) -> None:
        """Count for each adapter in how many looks in a row its gradient was zero, while something else had one."""
        adapters = [adapter for adapter in find_adapters(self.model) if not adapter.idle]
        of_adapters = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
        others = any(_has_gradient(p) for p in self.model.parameters() if id(p) not in of_adapters)
        learning = {adapter: any(map(_has_gradient, adapter.tensors.values())) for adapter in adapters}
        if not (others or any(learning.values())):
            # they were set to zero already
            return
        for adapter, learns in learning.items():
            known = any(tensor.grad is not None for tensor in adapter.tensors.values())
            key = adapter.path, adapter.name
            self._silent[key] = 0 if learns else self._silent.get(key, 0) + known

    def findings(self, adapters: list[Adapter], expect: Iterable[str] | None, start: set[str]) -> list[Finding]:
        """Return what is otherwise than when the training began.

        Args:
            adapters: Those of the model.
            expect: See `audit`.
            start: What was found at the start, by its place.
        """
        found = [
            f for f in trainable_findings(self.model, adapters, expect) if f.kind in LIGHT and f.where not in start
        ]
        now = _bases(adapters)
        for name, size in now.items():
            before = self._bases.get(name, size)
            if abs(size - before) > STAYED * before:
                seen = "is frozen, and its values changed: a saved adapter would not fit the base that it is put on"
                found.append(
                    Finding("base_moved", name, seen, "see what writes to it, such as a weight decay of its own")
                )
        self._bases = now
        if self._in_training and not any(module.training for _, module in self._in_training):
            path = self._in_training[0][0]
            seen = f"is in evaluation mode, and so are all {len(self._in_training)} such layers since a step before"
            found.append(Finding("evaluation_mode", path, seen, "call train() after each evaluation", "warning"))
        return found

    def silent(
        self, adapters: list[Adapter], sizes: dict[str, float], known: set[str], experts: Experts
    ) -> list[Finding]:
        """Return a finding for each adapter one of whose tensors is still zero, or whose gradient has been zero.

        Args:
            adapters: Those that are part of the answer.
            sizes: Name of each trained tensor -> sum of its squares.
            known: Tensors and modules that were named before.
            experts: Those of the model.
        """
        found = []
        for adapter in adapters:
            names = list(adapter.names())
            if adapter.path in known or known.intersection(names):
                continue
            severity: Severity = "warning" if experts.has(adapter.path) else "fault"
            zero = [n for n, name in enumerate(names[:2]) if sizes.get(name) == 0]
            if zero:
                label = label_of(adapter, list(adapter.tensors)[zero[-1]])
                seen, remedy = "is still zero: the adapter adds nothing", "see its gradient, and what its layer does"
                found.append(Finding("still_zero", adapter.path, seen, remedy, severity, label))
            elif self._silent.get((adapter.path, adapter.name), 0) >= IN_A_ROW:
                seen = (
                    f"got a gradient of zero in {IN_A_ROW} looks in a row: what moves it, as a decay, teaches nothing"
                )
                label = label_of(adapter, list(adapter.tensors)[1])
                found.append(Finding("zero_gradient", adapter.path, seen, "see what detaches it", severity, label))
        return found

    def skipped(self, moved: bool, is_finite: bool) -> list[Finding]:
        """Return a finding if gradients were not finite for so long that a scaler would have found its scale.

        Args:
            moved: Whether anything moved since the last check.
            is_finite: Whether all gradients are.
        """
        self._skipped = 0 if moved or is_finite else self._skipped + self.every
        if self._skipped < SKIPPED:
            return []
        seen = f"nothing moved in the last {self._skipped} steps, and gradients are not finite: each step is skipped"
        return [Finding("not_moving", "", seen, "look at the loss, and at the growth of the scaler")]


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(values_of(parameter.grad).any())


def _modal(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that do otherwise in training, with their paths."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or isinstance(module, nn.modules.batchnorm._NormBase)
    ]


def _bases(adapters: list[Adapter]) -> dict[str, float]:
    """Return name -> size of each frozen weight beside an adapter, read from the device at once."""
    held = {
        adapter.base[0]: adapter.base[1].detach()
        for adapter in adapters
        if adapter.base is not None and not adapter.idle and not adapter.base[1].requires_grad
    }
    held = {name: value for name, value in held.items() if value.is_floating_point() and value.numel()}
    if not held:
        return {}
    device = next(iter(held.values())).device
    sizes = [torch.linalg.vector_norm(value, dtype=torch.float32).to(device) for value in held.values()]
    return dict(zip(held, torch.stack(sizes).tolist(), strict=True))
