"""Answers that have collapsed: all classes, or all samples, are answered alike."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eomt.verification.findings import Finding, Severity
from eomt.verification.passes import ordinary

# the largest spread of answers that are called alike, as a share of the largest of them
ALIKE = 1e-5


def logits_of(answer: Any) -> Tensor | None:
    """Return the class logits in a model's answer, classes last; None where it is not known which they are.

    Args:
        answer: A tensor (B, C) or (B, C, H, W), or what holds `logits` of shape (B, C), (B, N, C) or (B, C, H, W).
    """
    logits = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(answer, Tensor):
        # three dimensions may be anything
        logits = answer if answer.dim() in (2, 4) else None
    if not isinstance(logits, Tensor) or logits.dim() not in (2, 3, 4) or not logits.is_floating_point():
        return None
    return logits.detach().movedim(1, -1) if logits.dim() == 4 else logits.detach()


def collapse_findings(logits: Tensor | None, inputs: Any, severity: Severity) -> list[Finding]:
    """Return a finding if classes are answered identically, and one if samples are.

    Args:
        logits: Class logits (B, ..., C), or None.
        inputs: The batch; samples that are the same may have the same answer.
        severity: Of the findings: before the first step a new head may well be all zero.
    """
    if logits is None or not logits.numel() or not bool(logits.isfinite().all()):
        return []
    values, plain = logits.float(), ordinary(logits)
    if not bool(plain.any()):
        return []
    limit = ALIKE * max(float(values[plain].abs().max()), 1e-30)

    def spread(dim: int) -> float:
        """Return the largest distance along a dimension, without what stands for "never"."""
        highest, lowest = values.masked_fill(~plain, -torch.inf).amax(dim), values.masked_fill(~plain, torch.inf)
        return float((highest - lowest.amin(dim)).max())

    found = []
    if values.shape[-1] > 1 and spread(-1) <= limit:
        seen = f"all {values.shape[-1]} classes are answered identically"
        found.append(Finding("classes_identical", "", seen, "train the head, and look at its start", severity))
    elif len(values) > 1 and spread(0) <= limit and _differ(inputs, len(values)):
        seen = f"all {len(values)} samples are answered identically, though they differ"
        remedy = "look where the input is lost, at the learning rate, and at saturated activations"
        found.append(Finding("samples_identical", "", seen, remedy, severity))
    return found


def _differ(inputs: Any, count: int) -> bool:
    """Return whether the samples of a batch differ from each other."""
    if isinstance(inputs, Tensor):
        return inputs.dim() > 1 and len(inputs) == count and not torch.equal(inputs[0], inputs[1])
    if isinstance(inputs, Mapping):
        named = {name: value for name, value in inputs.items() if "label" not in str(name)}
        return any(_differ(value, count) for value in named.values())
    return isinstance(inputs, tuple | list) and any(_differ(value, count) for value in inputs)
