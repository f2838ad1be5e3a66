"""Gates that are shut for every sample: a ReLU or sigmoid of zeros, a `where` that takes one side alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eomt.verification.findings import Finding

# below this, the answer of a sigmoid is shut: what it multiplies does not count, and nothing is learned through it
SHUT = 1e-6
SIGMOIDS = (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid, F.hardsigmoid)
RELUS = (F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class Gates(TorchFunctionMode):
    """A watch over the gates of a forward pass.

    Attributes:
        shut: What was found: path of the module -> what it does there.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.shut: dict[str, str] = {}
        # what opened at least once, such as a layer that is called twice
        self._open: set[str] = set()
        self._paths = {module: path for path, module in model.named_modules()}
        # None: a module outside of the model, such as a criterion
        self._stack: list[str | None] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._hooks = [
            nn.modules.module.register_module_forward_pre_hook(self._enter_module),
            nn.modules.module.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        self._stack.append(self._paths.get(module, self._stack[-1] if self._stack else None))

    def _leave_module(self, *_: Any) -> None:
        if self._stack:
            self._stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # an operation in place changes what it was given
        gates = func in RELUS or func in SIGMOIDS
        learns = gates and bool(args) and _learns(args[0])
        result = func(*args, **(kwargs or {}))
        if learns and isinstance(result, Tensor) and result.numel():
            name, least = ("ReLU", 0.0) if func in RELUS else ("sigmoid", SHUT)
            self._note(f"a {name} is zero for every sample", bool((result.detach() > least).any()))
        elif func is torch.where and len(args) == 3:
            condition, taken, other = args
            if _is_plain(condition) and condition.dtype == torch.bool and condition.numel():
                if _learns(taken) and not _learns(other):
                    self._note("a gate is shut for every sample", bool(condition.any()))
                elif _learns(other) and not _learns(taken):
                    self._note("a gate is shut for every sample", not bool(condition.all()))
        return result

    def _note(self, seen: str, is_open: bool) -> None:
        path = self._stack[-1] if self._stack else None
        if path is None:
            # a hinge in the loss is zero where it is satisfied
            return
        if is_open:
            self._open.add(path)
            self.shut.pop(path, None)
        elif path not in self._open:
            self.shut[path] = seen

    def findings(self) -> list[Finding]:
        """Return a finding for each gate that was never open."""
        remedy = "look at its bias and at the rate that moved it; nothing before it learns through it"
        return [Finding("dead_gate", path, f"is dead: {seen}", remedy) for path, seen in self.shut.items()]


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def _learns(value: Any) -> bool:
    return _is_plain(value) and value.requires_grad


@contextlib.contextmanager
def watched_gates(model: nn.Module) -> Iterator[Gates]:
    """Watch the gates of forward passes within."""
    with Gates(model) as gates:
        yield gates


def shut_gate(logits: Tensor) -> list[Finding]:
    """Return a fault if no object is ever seen: every gate's logit is below 0.

    Args:
        logits: Of the objects or classes of each sample, (B, ...); above 0 is open.
    """
    if not logits.numel() or bool((logits > 0).any()):
        return []
    seen = "the object gate is shut for every sample of the audit's batch, so that all answers to it are empty"
    return [Finding("dead_gate", "", seen, "train longer, raise the weight of its loss, or look at its bias")]
