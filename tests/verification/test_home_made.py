"""Adapters that a program makes itself, beside a part of a weight, of a copy that stays frozen, or not active."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from eomt.verification import AuditReport, audit
from eomt.verification.discovery import find_adapters
from tests.verification.test_false_alarms import BATCH, Net, audited, square, watched


class Combined(nn.Module):
    """Queries, keys and values of one weight (3 n, n), with a pair for queries and one for values."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(size, 3 * size).requires_grad_(False)
        self.linear_a_q, self.linear_b_q = nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)
        self.linear_a_v, self.linear_b_v = nn.Linear(size, 2, bias=False), nn.Linear(2, size, bias=False)
        for layer in (self.linear_b_q, self.linear_b_v):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        query, value = query + self.linear_b_q(self.linear_a_q(x)), value + self.linear_b_v(self.linear_a_v(x))
        return torch.tanh(query) * key + value


class Factors(nn.Module):
    """x A B, as many tutorials write it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(torch.randn(inputs, 2)), nn.Parameter(torch.zeros(2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A @ self.B


class WithFactors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.pair = nn.Linear(6, 6), Factors(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.pair(x)


class Update(nn.Module):
    """A parametrization of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(6, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.lora_B @ self.lora_A


def made(kind: str) -> tuple[nn.Module, nn.Parameter]:
    """Return a model and the weight beside its adapters."""
    torch.manual_seed(0)
    if kind == "combined":
        layer: nn.Module = Combined(6)
        return nn.Sequential(layer, nn.Linear(6, 3)), layer.qkv.weight
    if kind == "factors":
        layer = WithFactors()
        layer.linear.requires_grad_(False)
        return nn.Sequential(layer, nn.Linear(6, 3)), layer.linear.weight
    layer = nn.Linear(6, 6).requires_grad_(False)
    register_parametrization(layer, "weight", Update())
    return nn.Sequential(layer, nn.Linear(6, 3)), layer.parametrizations.weight.original


KINDS = {"combined": 2, "factors": 1, "parametrized": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_home_made_adapters_are_found_and_passed(kind: str) -> None:
    model, base = made(kind)
    adapters = find_adapters(model)
    assert len(adapters) == KINDS[kind]
    assert all(adapter.base is not None and adapter.base[1] is base for adapter in adapters)
    report = audited(model, stage="start")
    assert report.findings == ()
    assert report.adapters


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_was_never_frozen_is_named(kind: str) -> None:
    model, base = made(kind)
    model.requires_grad_(True)
    name = next(name for name, value in model.named_parameters() if value is base)
    found = [finding for finding in audited(model).findings if finding.severity == "fault"]
    assert [(finding.kind, finding.where) for finding in found] == [("not_meant_to_train", name)]
    assert not audited(model, expect=["0", "1"]).faults


def test_a_home_made_b_that_does_not_start_at_zero_is_named() -> None:
    model, _ = made("combined")
    nn.init.normal_(model[0].linear_b_v.weight)
    found = audited(model, stage="start").findings
    assert [(finding.kind, finding.where, finding.part) for finding in found] == [("b_not_zero", "0", "linear_b_v")]


class Taught(nn.Module):
    """A student, and a teacher that is a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Net()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)


def distilled(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        target = model.teacher(batch.flip(1))
    return (model.student(batch) - target).square().mean()


def test_adapters_of_a_frozen_copy_are_not_meant_to_train() -> None:
    report = audited(Taught(), loss=distilled)
    assert report.findings == ()
    assert report.adapters == ("student.body.0", "student.body.2")
    assert watched(Taught(), loss=distilled).reports["end"].findings == ()


def test_a_part_that_was_frozen_in_error_is_no_copy() -> None:
    def frozen(report: AuditReport) -> set[str]:
        return {finding.where.rpartition(".lora")[0] for finding in report.findings if finding.kind == "frozen"}

    model = Taught()
    # another base, and thus a tower of its own
    nn.init.normal_(model.teacher.body[0].base_layer.weight)
    assert frozen(audited(model, loss=distilled)) == {"teacher.body.0", "teacher.body.2"}
    # what `expect` leaves out may be frozen
    assert audited(model, loss=distilled, expect=["student.*lora*", "student.head"]).findings == ()
    model = Taught()
    model.student.body[0].requires_grad_(False)
    assert "student.body.0" in frozen(audited(model, loss=distilled))


def test_an_adapter_that_is_not_active_may_be_zero_at_the_end() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["0", "2"]))
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["0", "2"]))
    assert watched(model).reports["end"].findings == ()
    model.base_model.set_adapter(["default", "second"])
    found = audit(model, BATCH, square, allow_random_base=True, stage="end").findings
    zero = {(finding.where, finding.part) for finding in found if finding.kind == "still_zero"}
    assert {("base_model.model.0", "lora_B.second"), ("base_model.model.2", "lora_B.second")} <= zero
