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


def watched(model: nn.Module, steps: int = 4, loss: Any = square, **settings: Any) -> TrainingAudit:
    optimizer = adamw(model)
    watch = TrainingAudit(model, BATCH, [optimizer], loss, allow_random_base=True, every=2, **settings)
    watch.start()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, BATCH).backward()
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


@pytest.mark.parametrize("never", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_a_mask_that_is_added_to_answers_hides_nothing_and_is_no_collapse(never: float) -> None:
    class Masked(Net):
        bypassed = False

        def forward(self, x: Tensor) -> Tensor:
            body = self.body
            if self.bypassed and not torch.is_grad_enabled():
                answers = self.head(body[2].base_layer(torch.tanh(body[0].base_layer(x))))
            else:
                answers = super().forward(x)
            return answers + torch.tensor([0.0, 0.0, never])

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)[:, :2].square().mean()

    model = Masked()
    optimizer = adamw(model)
    watch = TrainingAudit(model, BATCH, [optimizer], loss, allow_random_base=True, every=2)
    watch.start()
    for _ in range(4):
        optimizer.zero_grad()
        loss(model, BATCH).backward()
        optimizer.step()
        watch.step()
    watch.end()
    assert all(report.findings == () for report in watch.reports.values())
    assert watch.effects[4] > 1e-3
    model.bypassed = True
    assert "bypassed" in {finding.kind for finding in audited(model, loss=loss).findings}


class Attention(nn.Module):
    """Masked attention between layers with adapters; the first of the keys alone is left to the first query."""

    def __init__(self, way: str, never: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.head = Lora(6, 8), Lora(6, 8), Lora(6, 8), nn.Linear(8, 3)
        self.way, self.never = way, never

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x[:, None] * torch.arange(1, 5)[:, None]) for layer in (self.query, self.key, self.value)
        )
        mask = torch.ones(4, 4, dtype=torch.bool).tril()
        scores = query @ key.transpose(1, 2)
        if self.way == "added":
            scores = scores + torch.where(mask, 0.0, self.never)
        elif self.way == "where":
            scores = torch.where(mask, scores, self.never)
        else:
            scores = scores.masked_fill(~mask, self.never)
        return self.head((scores.softmax(2) @ value).mean(1))


@pytest.mark.parametrize("way", ["added", "where", "filled"])
@pytest.mark.parametrize("never", [-1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_masked_attention_is_passed(way: str, never: float) -> None:
    assert audited(Attention(way, never)).findings == ()
    assert all(report.findings == () for report in watched(Attention(way, never)).reports.values())


def cross_entropy(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch), torch.arange(len(batch)) % 3)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("of_head", [True, False])
def test_a_base_of_tiny_or_large_weights_is_passed_and_a_fault_in_it_named(scale: float, of_head: bool) -> None:
    def make() -> Net:
        # what is not bounded, as tanh is, does not saturate
        model = Net(nn.GELU())
        with torch.no_grad():
            for layer in (model.body[0].base_layer, model.body[2].base_layer, *([model.head] if of_head else [])):
                layer.weight.mul_(scale)
                layer.bias.mul_(scale)
        return model

    assert audited(make(), loss=cross_entropy).findings == ()
    watch = watched(make(), loss=cross_entropy)
    assert all(report.is_sound for report in watch.reports.values())
    model = make()
    model.body[2].lora_B.weight.requires_grad_(False)
    assert ("frozen", "body.2.lora_B.weight") in {
        (f.kind, f.where) for f in audited(model, loss=cross_entropy).findings
    }
