"""Experts that a router left out are no faults, whatever their list is called; layers that never run are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.verification import AuditReport
from tests.verification.test_false_alarms import Lora, audited, watched

COUNT = 4


class Expert(nn.Module):
    """A layer within a module, as experts mostly are."""

    def __init__(self, adapted: bool = True) -> None:
        super().__init__()
        self.up = Lora(6, 6) if adapted else nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x).tanh()


class Mixture(nn.Module):
    """Experts in a list of any name, of which a router calls two."""

    def __init__(self, make: Callable[[], nn.Module] = Expert, first: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first or Lora(6, 6)
        self.blocks = nn.ModuleList(make() for _ in range(COUNT))
        self.router, self.head = nn.Linear(6, COUNT).requires_grad_(False), nn.Linear(6, 3)
        # two of them are never the best
        self.router.bias.data[2:] = -100.0

    def mix(self, x: Tensor, scores: Tensor) -> Tensor:
        best, mixed = scores.argmax(1), torch.zeros_like(x)
        for number in best.unique().tolist():
            rows = (best == number).nonzero()[:, 0]
            mixed = mixed.index_add(0, rows, self.blocks[number](x[rows]) * scores[rows, number, None])
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.mix(x, self.router(x).softmax(1)))


class ByParameter(Mixture):
    """The router is known by what it does alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.scores = nn.Parameter(torch.randn(1, 6), requires_grad=False)
        del self.router

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        score = (x - x.mean(0)) @ self.scores[0]
        scores = torch.stack([score, -score, score - 1e3, score - 1e3], 1).softmax(1)
        return self.head(self.mix(x, scores))


class Dense(Mixture):
    """All experts are called, and two of them are multiplied with zero."""

    def mix(self, x: Tensor, scores: Tensor) -> Tensor:
        weights = F.threshold(scores, 1e-6, 0.0)
        return sum(((weights[:, i, None] * block(x)) for i, block in enumerate(self.blocks)), torch.zeros_like(x))


class Empty(Mixture):
    """All experts are called, two of them with no token."""

    def mix(self, x: Tensor, scores: Tensor) -> Tensor:
        best, mixed = scores.argmax(1), torch.zeros_like(x)
        for number, block in enumerate(self.blocks):
            rows = (best == number).nonzero()[:, 0]
            mixed = mixed.index_add(0, rows, block(x[rows]) * scores[rows, number, None])
        return mixed


def left_out(report: AuditReport) -> set[str]:
    return {finding.where.rpartition(".up")[0] or finding.where for finding in report.findings}


@pytest.mark.parametrize("kind", [Mixture, ByParameter, Dense, Empty])
@pytest.mark.parametrize("adapted", [True, False])
def test_experts_that_a_router_left_out_are_no_faults_from_start_to_end(kind: type[Mixture], adapted: bool) -> None:
    def model() -> nn.Module:
        return kind(make=lambda: Expert(adapted))

    report = audited(model())
    assert report.is_sound, report.describe()
    assert {path.partition(".up")[0] for path in left_out(report)} == {"blocks.2", "blocks.3"}
    reports = watched(model()).reports
    assert all(each.is_sound for each in reports.values()), [each.describe() for each in reports.values()]


@pytest.mark.parametrize("kind", [Mixture, ByParameter])
def test_experts_behind_frozen_layers_are_told_too(kind: type[Mixture]) -> None:
    assert audited(kind(first=nn.Linear(6, 6).requires_grad_(False))).is_sound


class Layers(nn.Module):
    """Layers in sequence, the last of which is not run, and a head with as many classes as there are layers."""

    def __init__(self, adapted: int, count: int, residual: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        frozen = [nn.Linear(6, 6).requires_grad_(False) for _ in range(count - adapted)]
        self.layers = nn.ModuleList([*frozen, *(Lora(6, 6) for _ in range(adapted))])
        self.head, self.residual = nn.Linear(6, count), residual

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = x + layer(x).tanh() if self.residual else layer(x)
        return self.head(x)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("adapted", "count"), [(2, 2), (4, 4), (1, 4), (2, 4)])
def test_a_layer_that_is_never_run_is_a_fault(adapted: int, count: int, residual: bool) -> None:
    report = audited(Layers(adapted, count, residual))
    assert [(f.kind, f.where) for f in report.findings if f.severity == "fault"][:1] == [
        ("not_called", f"layers.{count - 1}")
    ]


def test_a_head_for_each_level_that_is_left_out_is_a_fault() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.ModuleList(Lora(6, 6) for _ in range(3))
            self.heads = nn.ModuleList(Lora(6, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            levels = []
            for layer in self.body:
                levels.append(x := layer(x).tanh())
            return torch.stack([head(level) for head, level in zip(self.heads, levels[:2], strict=False)])

    report = audited(Pyramid())
    assert ("not_called", "heads.2") in {(f.kind, f.where) for f in report.findings if f.severity == "fault"}


def test_a_dead_adapter_in_an_expert_that_is_called_is_a_fault() -> None:
    class Reads(Expert):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.up.base_layer.weight).tanh()

    report = audited(Mixture(make=Reads))
    faults = {(finding.kind, finding.where) for finding in report.findings if finding.severity == "fault"}
    assert {("not_called", "blocks.0.up"), ("not_called", "blocks.1.up")} <= faults
