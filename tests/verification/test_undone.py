"""What a program does beside its model in a pass or a step is not done in an audit; what is no chance is seen."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from eomt.verification import audit
from eomt.verification.findings import AuditError
from eomt.verification.training import TrainingAudit
from tests.verification.test_false_alarms import BATCH, Net, adamw, audited, square


def test_hooks_of_a_step_are_not_called_and_stay() -> None:
    model = Net()
    optimizer = adamw(model)
    calls: list[Any] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    optimizer.register_step_post_hook(lambda *_: calls.append(2))
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(3))
    try:
        assert audited(model, optimizers=[optimizer]).is_sound
        assert calls == []
        square(model, BATCH).backward()
        optimizer.step()
    finally:
        handle.remove()
    assert sorted(calls) == [1, 2, 3]


class Noisy(Net):
    """Adds noise from a generator of its own, also in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn(x.shape, generator=self.generator))


@pytest.mark.parametrize("where", ["model", "loss", "outputs"])
def test_generators_of_a_program_are_put_back_before_each_pass(where: str) -> None:
    model = Noisy() if where == "model" else Net()
    generator = model.generator if isinstance(model, Noisy) else torch.Generator().manual_seed(3)

    def noisy(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch + torch.randn(batch.shape, generator=generator))

    given: dict[str, Any] = {"outputs": noisy} if where == "outputs" else {}
    if where == "loss":
        given["loss"] = lambda model, batch: noisy(model, batch).square().mean()
    before = generator.get_state()
    assert audited(model, **given).findings == ()
    assert torch.equal(generator.get_state(), before)
    watch = TrainingAudit(model, BATCH, loss=square, outputs=given.get("outputs"), allow_random_base=True, every=1)
    watch.start()
    # adapters that did not move yet change nothing, whatever noise there is
    watch.step()
    with pytest.raises(AuditError):
        watch.step()
    assert watch.effects[2] == 0
    assert torch.equal(generator.get_state(), before)


class DropPath(nn.Module):
    def __init__(self, prob: float) -> None:
        super().__init__()
        self.drop_prob = prob

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1) >= self.drop_prob) if self.training else x


class Stochastic(Net):
    """Its second layer is on a branch that is left out at random."""

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.drop = DropPath(prob)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.body[0](x))
        return self.head(x + self.drop(self.body[2](x)))


@pytest.mark.parametrize("prob", [0.99, 1.0])
def test_a_branch_that_is_always_left_out_is_named(prob: float) -> None:
    found = {(finding.kind, finding.where) for finding in audited(Stochastic(prob)).findings}
    assert found == ({("zero_gradient", "body.2")} if prob == 1 else set())


def test_a_tensor_in_two_optimizers_is_a_warning() -> None:
    model = Net()
    second = torch.optim.SGD(model.head.parameters(), lr=0.1)
    found = audited(model, optimizers=[adamw(model), second]).findings
    assert [(f.kind, f.where, f.severity) for f in found] == [("in_two_optimizers", "head.weight", "warning")]
    assert "1 others" in found[0].seen


def test_a_step_to_nan_is_named_as_such() -> None:
    model = Net().half()
    batch = BATCH.half()
    optimizer = adamw(model, lr=1e-3, eps=1e-12)

    def divided(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad / (parameter.grad * 0))

    report = audit(model, batch, square, optimizers=[optimizer], allow_random_base=True, step=divided)
    kinds = {finding.kind for finding in report.findings if finding.severity == "fault"}
    assert kinds == {"step_not_finite"}


def test_ada_lora_starts_with_factors_of_zero() -> None:
    peft = pytest.importorskip("peft")
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    config = peft.AdaLoraConfig(target_modules=["0", "2"], init_r=2, target_r=1, total_step=100)
    model = peft.get_peft_model(plain, config)
    assert not [f for f in audited(model, stage="start").findings if f.kind == "b_not_zero"]
    for layer in (model.base_model.model[0], model.base_model.model[2]):
        nn.init.ones_(layer.lora_E["default"])
    assert [f for f in audited(model, stage="start").findings if f.kind == "b_not_zero"]
