"""The evaluation passes of the audit: what the answers depend on, with gradients and without."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import record_calls
from eomt.lora.config import adaptation
from eomt.utils.modes import evaluation_mode, isolated_randomness
from eomt.verification.calls import adapter_findings, is_silent, not_called, watched_calls
from eomt.verification.collapse import logits_of
from eomt.verification.discovery import Adapter
from eomt.verification.experts import Experts
from eomt.verification.findings import Finding, named_part
from eomt.verification.passes import Outputs, answer_of, ordinary
from eomt.verification.restored import put_back
from eomt.verification.rounding import in_half, rounding_alone
from eomt.verification.writes import generators_of


@dataclass
class Evaluation:
    """What two evaluation passes showed.

    Attributes:
        findings: Adapters that are not called or have no effect, and answers that differ between modes.
        logits: Class logits, classes last; None where it is not known which they are.
    """

    findings: list[Finding]
    logits: Tensor | None = None


def evaluation(
    model: nn.Module,
    batch: Any,
    outputs: Outputs,
    adapters: list[Adapter],
    experts: Experts | None = None,
    trained: list[nn.Parameter] | None = None,
    small: bool = True,
) -> Evaluation:
    """Look at adapters in two evaluation passes.

    One with gradients, which show for each adapter whether it acts, and one without, since fast paths that bypass
    adapters run only there. Both must give the same answers.

    Args:
        model: Any torch module.
        batch: Batch for `outputs`.
        outputs: Its answers.
        adapters: Those that are part of the answer.
        experts: Modules of which a batch calls a few; None knows them by their names.
        trained: What the answers of a training pass depend on, for a model without adapters; None does not look
            whether those of evaluation do.
        small: Whether a gradient that is small may be rounding alone; not, where a training pass showed it already.
    """
    has = (experts or Experts()).has
    generators = generators_of(model, [outputs])
    answers_seen: list[Any] = []
    rounded: set[Tensor] = set()
    with evaluation_mode(model):
        # no hooks of other layers here: they would switch fast paths off
        with torch.no_grad(), isolated_randomness(), put_back(generators), record_calls() as called:
            without = answer_of(outputs, model, batch)
        handle = model.register_forward_hook(lambda module, inputs, output: answers_seen.append(output))
        try:
            with torch.enable_grad(), isolated_randomness(), put_back(generators), watched_calls(adapters) as calls:
                answers = answer_of(outputs, model, batch)
                if answers.requires_grad:
                    total = (answers * torch.randn_like(answers)).sum()
                    total.backward(retain_graph=True)
                    held = [tensor for adapter in adapters for tensor in adapter.pair]
                    rounded = (rounding_alone(total, held, in_half(model, answers)) if small else None) or set()
                    del total
        finally:
            handle.remove()
    calls.own = called
    found = [not_called(adapter, "evaluation", has(adapter.path)) for adapter in adapters if is_silent(adapter, calls)]
    where = "in evaluation: it does not change the output"
    # masks and classes have no gradient, nor has what is answered under no_grad
    changed = [adapter.pair[1] for adapter in adapters] or trained or []
    acts = answers.requires_grad or not changed or _acts(model, batch, outputs, changed, without)
    if adapters and (answers.requires_grad or not acts):
        found += adapter_findings(adapters, where, calls, lambda path, _: has(path), "no_effect", rounded)
    elif not acts:
        seen = "the answers in training depend on what is trained, and those in evaluation do not"
        found.append(Finding("no_effect", "", seen, "see what the model does otherwise in evaluation"))
    if answers.requires_grad:
        found += _silent_parts(model, adapters, experts or Experts())
    found += _difference(model, answers.detach(), without)
    return Evaluation(found, logits_of(answers_seen[-1]) if answers_seen else None)


def _silent_parts(model: nn.Module, adapters: list[Adapter], experts: Experts) -> list[Finding]:
    """Return a warning for each module trained beside something frozen that answers in evaluation do not depend on."""
    if adaptation(model) is not None or all(parameter.requires_grad for parameter in model.parameters()):
        return []
    known = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    parts: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known and not experts.has(name):
            parts.setdefault(name.rpartition(".")[0], {})[name] = parameter
    remedy = "fine for what the loss alone needs, such as an auxiliary head"
    seen = "is trained, and does not change the output in evaluation"
    return [
        Finding("no_effect", named_part(path, list(held)), seen, remedy, "warning")
        for path, held in parts.items()
        if all(parameter.grad is None for parameter in held.values())
    ]


def _acts(model: nn.Module, batch: Any, outputs: Outputs, tensors: list[nn.Parameter], answers: Tensor) -> bool:
    """Return whether answers without a graph are others where some tensors are zero, or larger.

    A small change may turn no class of a hard answer, nor does a factor above zero.
    """
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        with evaluation_mode(model), torch.no_grad():
            for factor in (0.0, -30.0, 1000.0):
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value * factor)
                with isolated_randomness(), put_back(generators_of(model, [outputs])):
                    changed = answer_of(outputs, model, batch)
                if not torch.equal(changed, answers):
                    return True
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
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
