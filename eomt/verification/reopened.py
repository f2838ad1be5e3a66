"""Proof that what was saved, or merged, answers as the model in memory does."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eomt.errors import UserError, listed
from eomt.lora.adapter_layer import is_adapter_name
from eomt.utils.arguments import checked_arguments
from eomt.utils.modes import evaluation_mode, full_precision, isolated_randomness
from eomt.verification.differences import difference_findings, is_same
from eomt.verification.discovery import find_adapters
from eomt.verification.findings import AuditReport, Finding
from eomt.verification.passes import Outputs, answer_of, call, check_pass, ordinary
from eomt.verification.restored import unmerged, untouched
from eomt.verification.wrapped import unwrapped, without_autocast

# the largest difference of answers, as a share of the largest answer
SAME = 1e-4
# of tensors that differ, this many are named
NAMED = 5


@checked_arguments
def audit_reopened(
    model: nn.Module, reopened: nn.Module, batch: Any, outputs: Outputs | None = None, merged: bool = False
) -> AuditReport:
    """Check that a model that was read back from its file, or merged, answers as the one in memory does.

    Args:
        model: The model as it was trained.
        reopened: A fresh base into which the file was read, or the merged model.
        batch: Batch for `outputs`, on the device of both.
        outputs: Returns a model's answer to a batch as one tensor; None calls the model with the batch.
        merged: Whether adapters were merged into the weights, so that none should be left.

    Raises:
        UserError: If an argument is not of its type, the batch is empty, a model cannot answer it, or both are one.
    """
    model, reopened = unwrapped(model), unwrapped(reopened)
    check_pass("audit_reopened", model, batch)
    _require_another(model, reopened)
    adapters = tuple(dict.fromkeys(adapter.path for adapter in find_adapters(model)))
    found = _left(reopened) if merged else list(_lost(model, reopened))
    with isolated_randomness(), torch.no_grad(), full_precision(next(model.parameters()).device.type):
        answers = [_answers(each, batch, outputs or call) for each in (model, reopened)]
    difference, largest = _difference(*answers)
    half = any(parameter.itemsize == 2 for each in (model, reopened) for parameter in each.parameters())
    # written so that NaN is a fault too
    if not difference <= (0.02 if half else SAME) * largest:
        what = "merged" if merged else "read back from its file"
        seen = f"the model that was {what} answers otherwise, by {difference / max(largest, 1e-30):.1e} of the largest"
        kind = "merged_differs" if merged else "saved_differs"
        causes = difference_findings(kind, model, reopened, merged, seen)
        found += causes or [Finding(kind, "", *_without_cause(seen, found))]
    return AuditReport(tuple(found), adapters)


def _without_cause(seen: str, found: list[Finding]) -> tuple[str, str]:
    """Return what was seen and what to do where no weight but what was named before tells why answers differ."""
    if found:
        return seen, f"mend what {listed(dict.fromkeys(finding.kind for finding in found))} names, and compare again"
    return (
        f"{seen}, though the weights that both have are the same",
        "see what else the answer depends on: settings of the model, buffers, weights that are in one of them alone",
    )


def _require_another(model: nn.Module, reopened: nn.Module) -> None:
    """Check that two models are two: one that is compared with itself proves nothing.

    Raises:
        UserError: If one is the other or a part of it, or they share what is trained.
    """
    own = {id(parameter) for parameter in model.parameters()}
    if reopened is model or all(id(parameter) in own for parameter in reopened.parameters()):
        raise UserError(
            "audit_reopened: reopened is the model itself, or a part of it, which proves nothing; read the file into "
            "a fresh base, and merge a copy (copy.deepcopy)"
        )
    theirs = {id(parameter) for parameter in reopened.parameters()}
    shared = [name for name, value in model.named_parameters() if value.requires_grad and id(value) in theirs]
    if shared:
        raise UserError(
            f"audit_reopened: reopened shares {shared[0]!r} with the model, which proves nothing; read the file into "
            "a fresh base"
        )


def _answers(model: nn.Module, batch: Any, outputs: Outputs) -> Tensor:
    as_is = (unmerged(model), untouched(model, []), evaluation_mode(model), isolated_randomness())
    with contextlib.ExitStack() as stack:
        # a model that was just read from its file has no autocast of its own
        for context in (*as_is, without_autocast(model)):
            stack.enter_context(context)
        return answer_of(outputs, model, batch).double()


def _difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    if expected.shape != found.shape:
        return float("inf"), 1.0
    finite = ordinary(expected)
    if not bool(finite.any()):
        return 0.0, 0.0
    return float((expected - found)[finite].abs().max()), float(expected[finite].abs().max())


def _left(merged: nn.Module) -> list[Finding]:
    """Return a finding if a merged model still holds adapters."""
    left = find_adapters(merged)
    if not left:
        return []
    seen = f"is an adapter in a merged model ({len(left)} are left)"
    remedy = "merge and unload them, so that the file holds plain weights"
    return [Finding("adapters_left", left[0].path, seen, remedy)]


def _lost(model: nn.Module, reopened: nn.Module) -> Iterator[Finding]:
    """Yield a finding for what was trained, or is state, and did not come back."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    buffers = dict(model.named_buffers())
    there = {**dict(reopened.named_parameters()), **dict(reopened.named_buffers())}
    for kind, tensors in (("trained_lost", trained), ("buffer_lost", buffers)):
        lost = [name for name, value in tensors.items() if name in there and not is_same(value, there[name])]
        for name in lost[:NAMED]:
            more = f" ({len(lost)} such tensors)" if len(lost) > 1 else ""
            what = "was trained" if kind == "trained_lost" else "is a state of the model"
            seen = f"{what}, and came back from the file with other values{more}"
            remedy = (
                "save the adapter of this model after its last step, all of it, and load that file"
                if is_adapter_name(name)
                else "save it with the adapter (modules_to_save, trainable_modules)"
            )
            yield Finding(kind, name, seen, remedy)
    if (missing := [name for name in trained if name not in there]) and len(missing) < len(trained):
        seen = f"was trained, and the model that was read back has no such tensor ({len(missing)} such tensors)"
        yield Finding("trained_lost", missing[0], seen, "adapt the fresh base as the trained one was")
