"""The audit during a training: before the first step, every so many steps, and after the last one."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.utils.arguments import described
from eomt.utils.modes import evaluation_mode, isolated_randomness
from eomt.verification.audit import audit
from eomt.verification.course import Course
from eomt.verification.discovery import Adapter, find_adapters
from eomt.verification.experts import Experts
from eomt.verification.findings import AuditReport, Finding, Severity
from eomt.verification.passes import Loss, Outputs, answer_of, call, ordinary
from eomt.verification.reopened import audit_reopened
from eomt.verification.restored import put_back, unmerged, untouched
from eomt.verification.rounding import values_of
from eomt.verification.schedules import schedules_of
from eomt.verification.steps import plain_optimizers
from eomt.verification.wrapped import unwrapped
from eomt.verification.writes import generators_of, modules_beside, writes_undone

# the least that adapters must change the answers, as a share of the largest
FLOOR = 1e-6


class TrainingAudit:
    """An audit that follows a training loop of any kind: call `start`, `step` after each step, and `end`.

    A light check takes two forward passes without gradients.

    Args:
        model: Any torch module with adapters, or with a part that is trained.
        batch: A training batch on the model's device.
        optimizers: Those of the training, or the one; None does not check them.
        loss: See `audit`.
        outputs: See `audit`.
        expect: See `audit`.
        allow_random_base: See `audit`.
        every: Steps between two light checks; 0 makes none.
        floor: The least that adapters must change the answers after the first steps, as a share of the largest.
        warn: Log faults, and do not stop.
        schedulers: See `audit`.

    Attributes:
        reports: Name of each check, such as "start", "step 100" and "end" -> its report.
        effects: Step -> how far adapters change the answers, as a share of the largest.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        optimizers: Iterable[Optimizer] | Optimizer | None = None,
        loss: Loss | None = None,
        outputs: Outputs | None = None,
        expect: Iterable[str] | str | None = None,
        allow_random_base: bool = False,
        every: int = 100,
        floor: float = FLOOR,
        warn: bool = False,
        schedulers: Iterable[Any] | None = None,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 0:
            raise UserError(f"every: {described(every)}; must be a whole number of steps, at least 0")
        if not (isinstance(floor, int | float) and math.isfinite(floor) and floor >= 0):
            raise UserError(f"floor: {described(floor)}; must be a share of the largest answer, at least 0")
        self.model, self.batch = unwrapped(model), batch
        self.optimizers = plain_optimizers(optimizers or [])
        self.schedules = schedules_of(schedulers or [])
        self.loss, self.outputs = loss, outputs
        self.expect = [expect] if isinstance(expect, str) else expect
        self.allow_random_base, self.every, self.floor, self.warn = allow_random_base, every, floor, warn
        self.reports: dict[str, AuditReport] = {}
        self.effects: dict[int, float] = {}
        self.steps = 0
        self._has_started = False
        self._norms: dict[str, float] | None = None
        # of the start: name -> sum of squares of what was trained, and the names of what the optimizers held
        self._first: dict[str, float] = {}
        self._held: set[str] = set()
        self._course = Course(self.model, every)

    def start(self) -> AuditReport:
        """Audit the model before its first step.

        Raises:
            AuditError: There is a fault, and `warn` is false.
        """
        self._has_started = True
        self._first, self._held = self._norms_now(), self._held_now()
        return self._keep("start", self._audit(None))

    def step(self) -> AuditReport | None:
        """Count a step of the optimizer, and check what moved and what acts where it is time to.

        Call it after the optimizer's step and before gradients are set to zero.

        Raises:
            AuditError: There is a fault, and `warn` is false.
            UserError: `start` was not called.
        """
        self._require_start("step")
        self.steps += 1
        self._course.note(self.steps)
        if self._norms is None:
            self._norms = self._norms_now()
        elif self.every and self.steps % self.every == 0:
            return self._keep(f"step {self.steps}", self._light())
        return None

    def end(self) -> AuditReport:
        """Audit the model after its last step: it acts and learns, no B is zero, and no answers have collapsed.

        Raises:
            AuditError: There is a fault, and `warn` is false.
            UserError: `start` was not called.
        """
        self._require_start("end")
        report = self._audit("end")
        known = {finding.where for finding in report.findings}
        now = self._norms_now()
        lost = [f for f in self._lost((self.every and self._norms) or {}, now) if f.where not in known]
        if self.steps:
            # an adapter that never moved is named by its B
            lost += self._still(self._first, now, "since the start", known)
        adapters = [adapter for adapter in find_adapters(self.model) if not adapter.idle]
        if adapters and report.is_sound and self.every and self.steps >= self.every:
            lost += self._effect(adapters)
        return self._keep("end", replace(report, findings=(*report.findings, *lost)))

    def saved(self, reopened: nn.Module) -> AuditReport:
        """Check that a fresh base into which the file was read answers as the model does.

        Raises:
            AuditError: It does not, and `warn` is false.
        """
        return self._keep("saved", audit_reopened(self.model, reopened, self.batch, self.outputs))

    def merged(self, merged: nn.Module) -> AuditReport:
        """Check that the merged model answers as this one does, and holds no adapters.

        Raises:
            AuditError: It does not, and `warn` is false.
        """
        return self._keep("merged", audit_reopened(self.model, merged, self.batch, self.outputs, merged=True))

    def _require_start(self, method: str) -> None:
        """Check that there is a start to compare with.

        Raises:
            UserError: If there is none.
        """
        if not self._has_started:
            raise UserError(f"{method}: the audit was not started; call start() before the first step of the optimizer")

    def _audit(self, stage: str | None) -> AuditReport:
        # at the end, the rate of a schedule may be zero
        optimizers = self.optimizers if stage is None else None
        return audit(
            self.model,
            self.batch,
            self.loss,
            self.outputs,
            optimizers,
            self.allow_random_base,
            expect=self.expect,
            stage=stage,
            schedulers=self.schedules,
        )

    def _keep(self, name: str, report: AuditReport) -> AuditReport:
        self.reports[name] = report
        report.require(warn=self.warn)
        return report

    def _light(self) -> AuditReport:
        everything = find_adapters(self.model)
        adapters = [adapter for adapter in everything if not adapter.idle]
        before, now = self._norms or {}, self._norms_now()
        self._norms = now
        known = {finding.where for finding in self._of_start()}
        found = self._course.findings(everything, self.expect, known)
        found += self._moves(before, now, adapters, {finding.where for finding in found})
        # after weights that are not finite, answers say nothing, nor do they after steps that a scaler skipped
        if adapters and not any(finding.kind in ("weights_not_finite", "non_finite_gradient") for finding in found):
            found += self._effect(adapters)
        return AuditReport(tuple(found), tuple(adapter.path for adapter in adapters))

    def _moves(
        self, before: dict[str, float], now: dict[str, float], adapters: list[Adapter], known: set[str]
    ) -> list[Finding]:
        found = self._lost(before, now)
        for name, value in self.model.named_parameters():
            if not value.requires_grad:
                continue
            if not torch.tensor(now.get(name, 0.0)).isfinite():
                remedy = "lower the learning rate, or clip gradients"
                found.append(Finding("weights_not_finite", name, "holds values that are not finite", remedy))
            elif value.grad is not None and not bool(values_of(value.grad).isfinite().all()):
                # a scaler of fp16 skips such a step
                seen = "has a gradient that is not finite"
                found.append(Finding("non_finite_gradient", name, seen, "look at the loss", "warning"))
        rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        if rates and not any(rate is None or float(rate) for rate in rates):
            # a schedule may end so, after a step that moved something
            if now and all(before.get(name) == value for name, value in now.items()):
                seen = f"every learning rate is zero, and nothing moved in the last {self.every} steps"
                found.append(Finding("rate_zero", "", seen, "see the schedule"))
            return found
        known = known | {finding.where for finding in found}
        is_finite = not any(finding.kind == "non_finite_gradient" for finding in found)
        moved = any(before.get(name) != value for name, value in now.items())
        found += self._course.skipped(moved, is_finite)
        # a scaler that still looks for its scale skips all of a step
        if is_finite or moved:
            found += self._still(before, now, f"in the last {self.every} steps", known)
        known = known | {finding.where for finding in (*found, *self._of_start())}
        return found + (self._course.silent(adapters, now, known, self._experts()) if is_finite else [])

    def _lost(self, before: dict[str, float], now: dict[str, float]) -> list[Finding]:
        """Return a finding for each tensor that was trained at the start, and is frozen or in no optimizer now.

        What moved since the last check is frozen in turn with something else.

        Args:
            before: Name -> sum of squares, at the last check.
            now: The same, of this moment.
        """
        parameters, held, found = dict(self.model.named_parameters()), self._held_now(), []
        for name in self._first:
            in_turn = name in before and before[name] != now.get(name)
            if name in parameters and not parameters[name].requires_grad and not in_turn:
                remedy = "see what sets requires_grad while it trains"
                found.append(Finding("frozen", name, "was trained at the start, and is frozen now", remedy))
            elif name in self._held and name not in held:
                seen = "was in an optimizer at the start, and is in none now"
                found.append(Finding("not_in_optimizer", name, seen, "see what replaced it, or the optimizer's groups"))
        return found

    def _still(self, before: dict[str, float], now: dict[str, float], when: str, known: set[str]) -> list[Finding]:
        """Return a finding for each adapter, and each other module that is trained, none of whose tensors moved.

        Args:
            before: Name -> sum of squares, then.
            now: The same, of this moment.
            when: The rest of the sentence.
            known: Tensors and modules that were named before.
        """
        adapters = [adapter for adapter in find_adapters(self.model) if not adapter.idle]
        parts = {name: adapter.path for adapter in adapters for name in adapter.names()}
        # what got no gradient at the start, such as a pooling layer that a task has no use for, was named there
        known = known | {finding.where for finding in self._of_start() if finding.where}
        experts = self._experts()
        tensors: dict[str, list[str]] = {}
        for name in now:
            tensors.setdefault(parts.get(name, name.rpartition(".")[0]), []).append(name)
        found = []
        for path, names in tensors.items():
            compared = [name for name in names if name in before]
            moved = any(before[name] != now[name] for name in compared)
            if moved or not compared or path in known or known.intersection(names):
                continue
            # an expert that no token chose is no fault
            severity: Severity = "warning" if experts.has(names[0]) else "fault"
            remedy = "see whether it is in the optimizer, its learning rate, and its gradient"
            found.append(Finding("not_moving", path, f"did not move {when}", remedy, severity))
        return found

    def _experts(self) -> Experts:
        return Experts(set(self.reports["start"].experts) if "start" in self.reports else set())

    def _of_start(self) -> tuple[Finding, ...]:
        return self.reports["start"].findings if "start" in self.reports else ()

    def _held_now(self) -> set[str]:
        """Return the names of the tensors that the optimizers hold."""
        held = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        return {name for name, value in self.model.named_parameters() if id(value) in held}

    def _norms_now(self) -> dict[str, float]:
        """Return name -> sum of squares of each tensor that is trained, now or at the start, read at once."""
        named = self.model.named_parameters()
        trained = {name: value.detach() for name, value in named if value.requires_grad or name in self._first}
        if not trained:
            return {}
        device = next(iter(trained.values())).device
        sums = torch.stack([value.double().square().sum().to(device) for value in trained.values()])
        return dict(zip(trained, sums.tolist(), strict=True))

    def _effect(self, adapters: list[Adapter]) -> list[Finding]:
        """Return a finding if the answers are the same with the adapters as without."""
        ups = [adapter.pair[1] for adapter in adapters]
        model, others = self.model, modules_beside(self.model, [self.outputs] if self.outputs else [])
        with (
            isolated_randomness(),
            unmerged(model),
            untouched(model, ups, (), others),
            writes_undone([*model.modules(), *others]) as writes,
            evaluation_mode(model),
            torch.no_grad(),
            writes.watched(),
        ):
            adapted = self._answers()
            for up in ups:
                up.zero_()
            plain = self._answers()
        finite = ordinary(adapted) & ordinary(plain)
        largest = float(plain[finite].abs().max()) if bool(finite.any()) else 0.0
        effect = float((adapted - plain)[finite].abs().max()) / max(largest, 1e-30) if largest else 0.0
        self.effects[self.steps] = effect
        if effect >= self.floor:
            return []
        seen = f"adapters change the answers by {effect:.0e} of the largest after {self.steps} steps"
        return [Finding("no_effect", "", seen, "see the learning rate, and whether B moves at all")]

    def _answers(self) -> Tensor:
        with isolated_randomness(), put_back(generators_of(self.model, [self.outputs] if self.outputs else [])):
            return answer_of(self.outputs or call, self.model, self.batch)
