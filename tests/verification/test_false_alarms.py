"""Healthy trainings of which the audit once named a fault."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.verification import AuditReport, audit
from eomt.verification.training import TrainingAudit

BATCH = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


class Lora(nn.Module):
    """A frozen layer and its pair."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class Net(nn.Module):
    """A body with adapters and a head."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(Lora(6, 8), between or nn.Tanh(), Lora(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def square(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def adamw(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **{"lr": 1e-2, **settings})


def audited(model: nn.Module, **settings: Any) -> AuditReport:
    settings = {"loss": square, "allow_random_base": True, "optimizers": [adamw(model)], **settings}
    return audit(model, BATCH, **settings)


def watched(model: nn.Module, steps: int = 4, **settings: Any) -> TrainingAudit:
    optimizer = adamw(model)
    watch = TrainingAudit(model, BATCH, [optimizer], square, allow_random_base=True, every=2, **settings)
    watch.start()
    for _ in range(steps):
        optimizer.zero_grad()
        square(model, BATCH).backward()
        optimizer.step()
        watch.step()
    watch.end()
    return watch


class Mixture(nn.Module):
    """Experts of which one is chosen."""

    def __init__(self, adapted: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 6).requires_grad_(False)
        self.experts = nn.ModuleList(Lora(6, 6) if adapted else nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.experts[0](self.first(x)))


@pytest.mark.parametrize("adapted", [True, False])
def test_experts_that_no_token_chose_are_no_faults_from_start_to_end(adapted: bool) -> None:
    report = audited(Mixture(adapted))
    assert report.is_sound, report.describe()
    assert all(r.is_sound for r in watched(Mixture(adapted)).reports.values())


def test_a_norm_in_a_part_that_is_in_evaluation_mode_does_not_drift() -> None:
    model = Net(nn.BatchNorm1d(8).requires_grad_(False)).train()
    assert not audited(model).is_sound
    model.body.eval()
    assert audited(model).findings == ()


def test_a_hinge_in_the_loss_is_no_gate() -> None:
    def hinge(model: nn.Module, batch: Tensor) -> Tensor:
        answers = model(batch)
        return answers.square().mean() + F.relu(answers - 100).mean() + nn.ReLU()(answers - 100).mean()

    assert audited(Net(), loss=hinge).findings == ()


class Gated(Net):
    """A branch behind a gate that starts at zero, and is trained."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gate, self.branch = nn.Parameter(torch.zeros(shape)), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x + torch.tanh(self.gate) * self.branch(x).tanh())


@pytest.mark.parametrize("shape", [(), (1,), (8,)])
def test_a_branch_behind_a_trained_gate_of_zero_learns(shape: tuple[int, ...]) -> None:
    model = Gated(*shape)
    assert audited(model).findings == ()
    assert not model.gate.any()
    model.gate.requires_grad_(False)
    assert not audited(model).is_sound


@pytest.mark.parametrize("hard", [True, False])
def test_answers_without_a_graph_are_compared_with_and_without_adapters(hard: bool) -> None:
    class Silent(Net):
        acts = True

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                return super().forward(x)
            if not self.acts:
                return x.detach() * 2
            with torch.no_grad():
                return (super().forward(x) > 0).float() if hard else super().forward(x)

    model = Silent()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert audited(model).is_sound
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.acts = False
    assert not audited(model).is_sound
