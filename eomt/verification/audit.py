"""Proof that every adapter acts and learns, on one batch, in at most three passes.

It takes any torch module: this package's, a Hugging Face or PEFT model, or a plain one of which a part is trained.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers, require_values
from eomt.lora.targets import is_inside
from eomt.utils.arguments import checked_arguments, described
from eomt.utils.modes import evaluation_mode, isolated_randomness, still_parametrizations
from eomt.verification.base_weights import base_findings
from eomt.verification.base_weights import loaded_names as loaded_names
from eomt.verification.base_weights import random_base_faults as random_base_faults
from eomt.verification.base_weights import random_names as random_names
from eomt.verification.collapse import collapse_findings
from eomt.verification.discovery import Adapter, find_adapters, label_of, trained_in_full
from eomt.verification.evaluation import Evaluation, evaluation
from eomt.verification.expected import left_out, trainable_findings
from eomt.verification.experts import Experts
from eomt.verification.findings import AuditReport as AuditReport
from eomt.verification.findings import Finding, Severity
from eomt.verification.gates import shut_gate
from eomt.verification.learning import shake, shaken, training
from eomt.verification.passes import Loss, Outputs, check_pass, copied, own_loss
from eomt.verification.passes import call as call
from eomt.verification.restored import put_back, unmerged, untouched
from eomt.verification.schedules import Schedule, schedules_of
from eomt.verification.steps import OptimizerStep, optimizer_faults, plain_optimizers, plain_step, step_faults
from eomt.verification.wrapped import unwrapped
from eomt.verification.writes import generators_of, modules_beside, writes_undone

Answers = Callable[[nn.Module, Any], Mapping[str, Tensor]]


@checked_arguments
def audit(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    outputs: Outputs | None = None,
    optimizers: Iterable[Optimizer] | Optimizer | None = None,
    allow_random_base: bool = False,
    step: OptimizerStep = plain_step,
    expect: Iterable[str] | str | None = None,
    stage: str | None = None,
    answers: Answers | None = None,
    schedulers: Iterable[Any] | None = None,
) -> AuditReport:
    """Check that each adapter of a model, and what else it trains, acts and learns.

    These are checked, on one batch and in at most three passes:

    - Exactly the parameters that should be are trainable. Each is in an optimizer, and one step at the full learning
      rate moves it, beyond the rounding of its type.
    - Each adapter is called in training and in evaluation.
    - A and B of each adapter get a finite gradient other than zero, from the loss in training and from the output in
      evaluation. Everything else that is trained gets a gradient.
    - The output is the same with gradients and under no_grad; classes and samples have answers of their own, and no
      gate is shut for all of them. Running statistics of frozen layers stay as they are.
    - No frozen tensor is random, that is, was never read from a file, as far as that can be known.

    Random states, buffers, gradients, modes, hooks, weights and optimizers are afterwards as before. docs/audit.md
    explains each finding.

    Args:
        model: Any torch module with adapters (this package's, PEFT's, torchtune's, loralib's, or any low-rank pair
            beside a frozen weight), or with a part that is trained. What DDP or torch.compile put around it is taken
            off.
        batch: Batch for `loss` and `outputs`, on the model's device.
        loss: Returns the scalar loss of a model on a training batch, with its graph; None takes `model(**batch).loss`.
        outputs: Returns a model's answer to a batch as one tensor; None calls the model with the batch.
        optimizers: Those of the training, or the one; None does not check them.
        allow_random_base: Let frozen weights be random, as in a smoke test without pre-trained weights.
        step: Makes a step of an optimizer, as the training does, for example with clipped gradients.
        expect: What should be trainable: names of parameters or modules, parts of them, patterns with `*`, or
            "adapters"; None infers it.
        stage: "start": B should be zero; "end": it should not be, and collapsed answers are faults; None: no matter.
        answers: Returns, for a look at the end, `gate` (logits of objects, (B, ...)) and `classes` (logits, classes
            last) of a batch, either or both; None looks at `logits` in the model's answer. It is a pass more.
        schedulers: Learning-rate schedulers of the training, alone or as `eomt.verification.schedules.Schedule`; None
            takes the initial rate as the one of the training.

    Raises:
        UserError: If an argument is not of its type, the batch is empty or does not fit, something was made in
            torch.inference_mode, is on the meta device or sharded, `loss` returns no scalar, or `outputs` no tensor.
    """
    if stage not in (None, "start", "end"):
        raise UserError(f"stage: {described(stage)}; must be start, end or None")
    model = unwrapped(model)
    check_pass("audit", model, batch)
    require_values(dict(model.named_parameters()), "audit")
    plain = plain_optimizers(optimizers or [])
    with unmerged(model), still_parametrizations(model):
        adapters = left_out(find_adapters(model), model, [expect] if isinstance(expect, str) else expect)
        findings = _before_passes(model, adapters, plain, allow_random_base, expect, stage)
    active = [adapter for adapter in adapters if not adapter.idle]
    experts = Experts()
    if any(parameter.requires_grad for parameter in model.parameters()):
        used = modules_beside(model, [function for function in (loss, outputs, answers) if function is not None])
        passes = _Passes(model, batch, loss or own_loss, outputs or call, active, stage, used)
        generators = generators_of(model, [function for function in (loss, outputs, answers) if function is not None])
        with unmerged(model), put_back(generators):
            known = {finding.where for finding in findings if _is_fault(finding)}
            findings += passes.findings(plain, step, known, schedules_of(schedulers or []))
            if answers is not None:
                findings += passes.of_answers(answers)
        experts = passes.experts
    # an expert may be chosen by no token of a whole training
    findings = [
        replace(finding, severity="warning") if finding.kind == "still_zero" and experts.has(finding.where) else finding
        for finding in findings
    ]
    with still_parametrizations(model):
        in_full = tuple(trained_in_full(model, active))
    paths = tuple(dict.fromkeys(adapter.path for adapter in active))
    return AuditReport(tuple(findings), paths, in_full, tuple(sorted(experts.chosen | experts.idle)))


def _before_passes(
    model: nn.Module,
    adapters: list[Adapter],
    optimizers: list[Optimizer],
    allow_random_base: bool,
    expect: Iterable[str] | str | None,
    stage: str | None,
) -> list[Finding]:
    """Return what is found without a pass; see `audit` for the arguments."""
    findings = trainable_findings(model, adapters, [expect] if isinstance(expect, str) else expect)
    findings += optimizer_faults(model, optimizers) if optimizers else []
    findings += [] if allow_random_base else base_findings(model)
    findings += shared_findings(adapters)
    return findings + start_findings(adapters, stage, optimizers, model)


def _is_fault(finding: Finding) -> bool:
    return finding.severity == "fault"


def _news(findings: list[Finding], known: set[str]) -> list[Finding]:
    """Return the findings that do not only follow from those at known places, or in modules there."""
    return [finding for finding in findings if not finding.where or not is_inside(finding.where, known - {""})]


class _Passes:
    """The passes of an audit.

    Args:
        model: Any torch module.
        batch: A training batch.
        loss: Its loss.
        outputs: Its answers.
        adapters: Those that are part of the answer.
        stage: See `audit`.
        beside: Modules outside of the model that these functions use.

    Attributes:
        experts: Modules of which the training pass called a few.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        loss: Loss,
        outputs: Outputs,
        adapters: list[Adapter],
        stage: str | None,
        beside: list[nn.Module],
    ) -> None:
        self.model, self.batch, self.loss, self.outputs = model, batch, loss, outputs
        self.adapters, self.stage, self.beside = adapters, stage, beside
        self.experts = Experts()

    def findings(
        self, optimizers: list[Optimizer], step: OptimizerStep, known: set[str], schedules: list[Schedule]
    ) -> list[Finding]:
        """Return what a training pass and two evaluation passes show.

        Args:
            optimizers: Optimizers of the training.
            step: Makes a step of one.
            known: Tensors with faults that were found before, of which others would only follow.
            schedules: Of the optimizers' learning rates.
        """
        model, adapters = self.model, self.adapters
        # eager: else these passes would be compiled too, and reach dynamo's limit of recompilations
        eager = torch.compiler.set_stance("force_eager")
        changed = shaken(model, adapters)
        # what optimizers hold beside the model, such as a criterion's weights, gets gradients too
        held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        with (
            isolated_randomness(),
            untouched(model, changed, held, self.beside),
            writes_undone([*model.modules(), *self.beside]) as writes,
            eager,
        ):
            if self.stage != "end":
                shake(changed)
            trained = training(model, self.batch, self.loss, adapters, writes, held)
            self.experts, found = trained.experts, trained.findings
            if not any(_is_fault(finding) for finding in found):
                with writes.watched(frozen=True):
                    found += step_faults(model, adapters, optimizers, step, self.experts, schedules)
            found = _news(found, known)
            faulty = known | {finding.where for finding in found if _is_fault(finding)}
            model.zero_grad()
            for adapter in adapters:
                for tensor in adapter.tensors.values():
                    tensor.requires_grad_(tensor.is_floating_point())
            not_finite = any(finding.kind == "loss_not_finite" for finding in found)
            seen = None if not_finite else self._evaluated(trained.answers, not trained.has_small)
            if seen is not None:
                unused = [finding.where for finding in found if finding.kind == "no_gradient"]
                found += [
                    finding
                    for finding in _news(seen.findings, faulty)
                    if finding.kind != "no_effect" or not any(is_inside(name, [finding.where]) for name in unused)
                ]
                severity: Severity = "fault" if self.stage == "end" else "warning"
                found += collapse_findings(seen.logits, self.batch, severity)
        return found

    def _evaluated(self, depends: bool, small: bool) -> Evaluation | None:
        # a plain model may not take the batch of its loss
        may_refuse = not self.adapters and self.outputs is call
        with contextlib.suppress(*(UserError, TypeError, ValueError, AttributeError) if may_refuse else ()):
            trained = [p for p in self.model.parameters() if p.requires_grad and depends]
            return evaluation(self.model, self.batch, self.outputs, self.adapters, self.experts, trained, small)
        return None

    def of_answers(self, answers: Answers) -> list[Finding]:
        """Return what the answers that a task names show: gates that are shut, classes and samples that are alike."""
        model = self.model
        with (
            isolated_randomness(),
            untouched(model, [], (), self.beside),
            writes_undone([*model.modules(), *self.beside]) as writes,
            evaluation_mode(model),
            torch.no_grad(),
            writes.watched(),
        ):
            named = answers(model, copied(self.batch))
        found = shut_gate(named["gate"]) if "gate" in named else []
        return found + collapse_findings(named.get("classes"), self.batch, "fault")


def start_findings(
    adapters: list[Adapter], stage: str | None, optimizers: list[Optimizer], model: nn.Module
) -> list[Finding]:
    """Return a finding for each adapter whose A and B are not what they should be at this stage.

    Without a stage, it is taken as the start while no optimizer is known that made a step, and what is found there is a
    warning: an adapter that was loaded is trained on.
    """
    found = []
    fresh = not any(optimizer.state for optimizer in optimizers)
    changed = _changes_its_base(model)
    severity: Severity
    for adapter in adapters:
        a, b = adapter.pair
        # what is loaded beside the one that trains, or frozen for good, is as it should be
        is_trained = any(tensor.requires_grad for tensor in adapter.tensors.values())
        if not (a.is_floating_point() and b.is_floating_point()) or adapter.idle or (stage == "end" and not is_trained):
            continue
        has_a, has_b = bool(a.any()), bool(b.any())
        # of AdaLoRA, the factors between A and B start at zero
        if between := [tensor for name, tensor in adapter.tensors.items() if name.startswith("lora_E")]:
            has_b = has_b and bool(between[0].any())
        labels = [label_of(adapter, name) for name in adapter.tensors]
        label = labels[1]
        if not (has_a or has_b):
            seen = "and A are both zero: neither ever gets a gradient"
            found.append(Finding("both_zero", adapter.path, seen, "initialize A at random", part=label))
        elif has_a and has_b and (stage == "start" or (stage is None and fresh)) and adapter.name not in changed:
            severity = "fault" if stage == "start" else "warning"
            seen = "is not zero at the start: the adapted model does not answer as its base"
            remedy = "set it to zero, unless an adapter was loaded to be trained on"
            found.append(Finding("b_not_zero", adapter.path, seen, remedy, severity, label))
        elif not (has_a and has_b) and stage == "end":
            # the zero one of an embedding's pair is A
            label = label if not has_b else labels[0]
            seen = "is still zero after the training: the adapter adds nothing"
            remedy = "look whether it was in the optimizer, got gradients, and was gathered before it was saved"
            found.append(Finding("still_zero", adapter.path, seen, remedy, part=label))
    return found


def shared_findings(adapters: list[Adapter]) -> list[Finding]:
    """Return a warning for each adapter that shares its A or B with one beside another weight.

    Adapters beside one weight, such as that of embeddings and output, may well be tied.
    """
    first: dict[int, Adapter] = {}
    found = []
    for adapter in adapters:
        for name, tensor in adapter.tensors.items():
            other = first.setdefault(id(tensor), adapter)
            bases = [each.base and each.base[1] for each in (adapter, other)]
            if other is not adapter and (bases[0] is None or bases[0] is not bases[1]):
                seen = f"is the very tensor that {other.path!r} has: both layers learn one change"
                remedy = "give each layer a pair of its own, unless it is meant so"
                found.append(Finding("shared", adapter.path, seen, remedy, "warning", label_of(adapter, name)))
    return found


def _changes_its_base(model: nn.Module) -> set[str]:
    """Return the names of adapters whose initialization takes their product out of the base, as PiSSA does."""
    found = set()
    configs = getattr(model, "peft_config", None)
    for name, config in configs.items() if isinstance(configs, Mapping) else []:
        kind = getattr(config, "init_lora_weights", True)
        if isinstance(kind, str) and kind not in ("gaussian", "eva", "orthogonal"):
            found.add(name)
    if any(layer.initial_pair() is not None for layer in lora_layers(model).values()):
        found.add("")
    return found
