"""Whether the optimizers of a training hold what is trained, and move it."""

import contextlib
import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from eomt.errors import UserError
from eomt.lora.adapter_layer import is_adapter_name
from eomt.lora.config import adaptation
from eomt.utils.arguments import described
from eomt.verification.discovery import Adapter
from eomt.verification.experts import Experts
from eomt.verification.findings import Finding, Severity
from eomt.verification.schedules import Schedule, full_rates

HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
OptimizerStep = Callable[[Optimizer], Any]

# the least that a step must move a tensor, as a share of its size: ten thousand such steps add up to a thousandth
LEAST_STEP = 1e-7
# the largest share of the values of a tensor of 16 bits that may stay as they are in a step
SWALLOWED = 0.5
NAN = (
    "is no longer finite after a step of the optimizer: in 16 bits its eps may be zero, so that it divides zero by zero"
)


def plain_optimizers(optimizers: Iterable[Optimizer] | Optimizer) -> list[Optimizer]:
    """Return the optimizers of torch themselves, without what Accelerate or Lightning put around them.

    Raises:
        UserError: If one of them is none.
    """
    found = []
    for optimizer in [optimizers] if isinstance(optimizers, Optimizer) else optimizers:
        if isinstance(optimizer, LRScheduler):
            raise UserError(f"optimizers: holds a {type(optimizer).__name__}; give the optimizer that it schedules")
        inner: Any = optimizer
        while isinstance(getattr(inner, "optimizer", None), Optimizer):
            inner = inner.optimizer
        if not (hasattr(inner, "param_groups") and hasattr(inner, "state")):
            raise UserError(f"optimizers: holds {described(inner)}; give optimizers of torch")
        found.append(inner)
    return found


def plain_step(optimizer: Optimizer) -> None:
    """Make a step of an optimizer with the gradients that are there, also of one that asks for a closure (L-BFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is None or closure.default is not inspect.Parameter.empty:
        optimizer.step()
        return
    step: Any = optimizer.step
    step(lambda: torch.zeros(()))


def optimizer_faults(model: nn.Module, optimizers: Iterable[Optimizer]) -> list[Finding]:
    """Return a fault for each trainable tensor that is in no optimizer, or is trained in 16 bits by this package.

    That some are in two optimizers is a warning.
    """
    each = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in optimizers]
    held = set().union(*each)
    own = adaptation(model) is not None
    found = []
    twice = [n for n, p in model.named_parameters() if p.requires_grad and sum(id(p) in ids for ids in each) > 1]
    if twice:
        others = f", and {len(twice) - 1} others are" if len(twice) > 1 else ""
        seen = f"is in more than one optimizer{others}: each of them moves it"
        found.append(Finding("in_two_optimizers", twice[0], seen, "see what each is made of", "warning"))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in held:
            remedy = "see configure_optimizers" if own else "make the optimizer of all that is trainable, at the end"
            found.append(Finding("not_in_optimizer", name, "is trainable but in no optimizer", remedy))
        elif parameter.requires_grad and parameter.itemsize < 4 and own:
            seen = f"is trained in {parameter.dtype}, where small steps round to nothing"
            found.append(Finding("rounding", name, seen, "train in float32 (precision bf16-mixed)"))
    return found


def step_faults(
    model: nn.Module,
    adapters: list[Adapter],
    optimizers: list[Optimizer],
    step: OptimizerStep,
    experts: Experts,
    schedules: list[Schedule],
) -> list[Finding]:
    """Return a fault for each adapter's A or B, and each trained layer, that a step of its optimizer hardly moves.

    A layer may hold a tensor that never moves, such as the bias of keys, which softmax does not see. A learning rate of
    zero, a tiny alpha, gradients far below the epsilon of the optimizer: all of it ends here. The learning rate is that
    of the whole run, not that of the first step of a warm-up.
    """
    full = [full_rates(optimizer, schedules) for optimizer in optimizers]
    # a rate that was given as zero is named with the tensors that it leaves where they are
    given = [rate for optimizer in optimizers for rate in full_rates(optimizer, [])]
    if any(given) and all(rate is not None and not float(rate) for rates in full for rate in rates):
        seen = "every learning rate of the schedule is zero, from the first step on"
        remedy = "see its warm-up, and the number of steps that it was given"
        return [Finding("rate_zero", "", seen, remedy)]
    names = {parameter: name for name, parameter in model.named_parameters()}
    # an adapter moves the weight by its factor times its own move
    factors = {p: min(1.0, abs(adapter.factor)) for adapter in adapters for p in adapter.pair}
    adapted = {p for adapter in adapters for p in adapter.tensors.values()}
    shares: dict[str, tuple[float, str, float]] = {}
    swallowed: list[Finding] = []
    broken: list[Finding] = []
    for optimizer, full_of_groups in zip(optimizers, full, strict=True):
        with _undone(optimizer) as before:
            rates: dict[nn.Parameter, float] = {}
            for group, full_rate in zip(optimizer.param_groups, full_of_groups, strict=True):
                group["lr"] = full_rate
                # Adafactor sets its own rate where none is given
                rate = 1.0 if group["lr"] is None else float(group["lr"])
                rates |= dict.fromkeys(group["params"], rate)
                if "weight_decay" in group:
                    # it moves weights, but teaches them nothing
                    group["weight_decay"] = 0.0
            step(optimizer)
            for parameter, value in before.items():
                if parameter not in names:
                    continue
                name, now = names[parameter], parameter.detach()
                if experts.has(name) and (parameter.grad is None or not bool(parameter.grad.any())):
                    # no token of this batch chose it
                    continue
                moved = float((now.float() - value.float()).norm() if now.itemsize < 4 else (now - value).norm())
                # a tensor of zeros may start anywhere
                share = factors.get(parameter, 1.0) * moved / max(float(value.norm()), 1e-3 * value.numel() ** 0.5)
                if not math.isfinite(moved) and bool(value.isfinite().all()):
                    broken.append(
                        Finding("step_not_finite", name, NAN, "keep what is trained in float32, or raise eps")
                    )
                    continue
                share = share if math.isfinite(share) else 0.0
                is_adapter = parameter in adapted or is_adapter_name(name)
                part = name if is_adapter else name.rpartition(".")[0]
                shares[part] = max(shares.get(part, (-1.0, "", 0.0)), (share, name, rates[parameter]))
                if parameter.itemsize < 4 and rates[parameter]:
                    swallowed += _rounding(name, parameter, value)
    rounded = {finding.where for finding in swallowed if finding.severity == "fault"}
    still = [
        Finding(
            "hardly_moves" if rate else "rate_zero",
            name,
            f"moves by {share:.0e} of its size in a step of the optimizer: it cannot learn (see the learning rate, "
            "lora_alpha, gradient_clip_val)",
        )
        for share, name, rate in shares.values()
        if not share >= LEAST_STEP and name not in rounded
    ]
    return broken + still + swallowed


def _rounding(name: str, parameter: nn.Parameter, before: Tensor) -> list[Finding]:
    """Return a finding for a tensor of 16 bits: a fault where a step leaves most values as they were."""
    gradient = parameter.grad
    pushed = gradient != 0 if gradient is not None else torch.zeros_like(before, dtype=torch.bool)
    count = int(pushed.sum())
    if not count:
        return []
    share = float(((parameter.detach() == before) & pushed).sum()) / count
    severity: Severity = "fault" if share > SWALLOWED else "warning"
    seen = f"is trained in {parameter.dtype}: a step leaves {share:.0%} of its values as they were, by rounding"
    return [Finding("rounding", name, seen, "keep what is trained in float32, and use autocast", severity)]


@contextlib.contextmanager
def _undone(optimizer: Optimizer) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Put parameters, states and settings of an optimizer back afterwards; yield the values of the parameters.

    What has no gradient a step leaves alone: of frozen weights there is no copy.
    """
    before = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    states = dict(optimizer.state)
    # such as whether it made a step, which schedulers ask for
    attributes = {name: value for name, value in vars(optimizer).items() if isinstance(value, bool | int | float)}
    # what hooks do, such as an average of weights, is not undone
    hooks = [held for name in HOOKS if isinstance(held := getattr(optimizer, name, None), dict)]
    hooks += [_global_optimizer_pre_hooks, _global_optimizer_post_hooks]
    kept_hooks = [dict(held) for held in hooks]
    for held in hooks:
        held.clear()
    # the step is made on copies, so that the very tensors come back as they were
    for parameter, state in states.items():
        optimizer.state[parameter] = copy.deepcopy(state, {id(parameter): parameter})
    for group in optimizer.param_groups:
        group.update({name: copy.deepcopy(value) for name, value in group.items() if name != "params"})
    try:
        yield before
    finally:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)
        for group, setting in zip(optimizer.param_groups, groups, strict=True):
            for name in [name for name in group if name not in setting and name != "params"]:
                del group[name]
            group.update(setting)
        optimizer.state.clear()
        optimizer.state.update(states)
        for name in [name for name, value in vars(optimizer).items() if isinstance(value, bool | int | float)]:
            if name not in attributes:
                delattr(optimizer, name)
        vars(optimizer).update(attributes)
        for held, callbacks in zip(hooks, kept_hooks, strict=True):
            held.update(callbacks)
