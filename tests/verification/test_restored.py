"""What an audit, or a light check, changes in passing is put back: states of all kinds, wherever they are kept."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.verification.reopened import audit_reopened
from eomt.verification.training import TrainingAudit
from tests.verification.test_discovery import LoralibLinear
from tests.verification.test_false_alarms import BATCH, Lora, Net, adamw, audited, square, watched


def values(*modules: nn.Module) -> dict[str, Tensor]:
    found = {}
    for number, module in enumerate(modules):
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        found |= {f"{number}.{name}": value.detach().clone() for name, value in tensors.items()}
    return found


def check(model: nn.Module, others: tuple[nn.Module, ...] = (), **settings: Any) -> None:
    """Check that an audit and a light check find nothing, and leave all values bit by bit."""
    before = values(model, *others)
    report = audited(model, **settings)
    assert report.findings == (), report.describe()
    watch = TrainingAudit(model, BATCH, [], settings.get("loss", square), allow_random_base=True)
    watch._light()
    audit_reopened(model, copy.deepcopy(model), BATCH)
    after = values(model, *others)
    assert before.keys() == after.keys()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


# -- states within the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_vectors_of_spectral_norm_are_put_back(norm: Callable[[nn.Module], nn.Module], mode: bool) -> None:
    model = Net(norm(nn.Linear(8, 8).requires_grad_(False)))
    norm(model.body[0].base_layer)
    norm(model.head)
    # vectors of a frozen layer that are not at rest yet are a finding
    with torch.no_grad():
        for _ in range(200):
            model.train()(BATCH)
    check(model.train(mode))


def loralib() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(LoralibLinear(6), nn.Tanh(), LoralibLinear(6), nn.Linear(6, 3).requires_grad_(False))
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.lora_B)
    return model


@pytest.mark.parametrize("mode", [True, False])
def test_layers_that_merge_themselves_in_evaluation_are_left_as_they_are(mode: bool) -> None:
    model = loralib()
    optimizer = adamw(model)
    # after a step, B may be other than zero
    square(model, BATCH).backward()
    optimizer.step()
    model.train(mode)
    check(model, optimizers=[optimizer])
    assert [layer.merged for layer in (model[0], model[2])] == [not mode] * 2
    assert [module.training for module in model.modules()] == [mode] * len(list(model.modules()))
    watch = watched(loralib().train(mode).train())
    assert all(report.is_sound for report in watch.reports.values())


class MergesInEvaluation(Lora):
    """Merges in `train()` under a name that nobody knows."""

    is_folded = False

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.kernel = nn.Parameter(torch.randn(outputs, inputs), requires_grad=False)

    def train(self, mode: bool = True) -> nn.Module:
        if mode == self.is_folded:
            with torch.no_grad():
                self.kernel += (-0.1 if mode else 0.1) * self.lora_A.weight.new_ones(self.kernel.shape)
            self.is_folded = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * x @ self.kernel.T


def test_weights_of_a_layer_that_does_more_in_train_than_to_set_its_mode_are_put_back() -> None:
    model = Net()
    model.body[2] = MergesInEvaluation(8, 8)
    before = values(model)
    audited(model)
    TrainingAudit(model, BATCH, [], square, allow_random_base=True)._light()
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())
    assert not model.body[2].is_folded


class Following(Net):
    """A frozen teacher that follows the student in each forward pass, one way or another."""

    way = "in place"

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(6, 3).requires_grad_(False)
        self.calls, self.seen, self.last = 0, [0.0], torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        weight, target = self.teacher.weight, self.head.weight[:, :6].detach()
        with torch.no_grad():
            if self.way == "in place":
                weight.mul_(0.9).add_(target, alpha=0.1)
            elif self.way == "data":
                weight.data.lerp_(target, 0.1)
            elif self.way == "set":
                weight.data = weight.data * 0.9 + target * 0.1
            elif self.way == "operator":
                weight *= 0.9
            elif self.way == "foreach":
                torch._foreach_mul_([weight], 0.9)
            else:
                torch.add(weight, target, out=weight)
        self.calls += 1
        self.seen.append(float(x.sum()))
        self.last += 1
        return super().forward(x) + F.linear(x, self.teacher.weight).detach() * 1e-3


@pytest.mark.parametrize("way", ["in place", "data", "set", "operator", "foreach", "out"])
def test_a_teacher_that_follows_in_the_forward_pass_is_put_back(way: str) -> None:
    model = Following()
    model.way = way
    before, last = values(model), model.last
    assert audited(model, answers=lambda model, batch: {"gate": model(batch).abs()}).is_sound
    TrainingAudit(model, BATCH, [], square, allow_random_base=True)._light()
    assert [name for name, value in values(model).items() if not torch.equal(value, before[name])] == []
    assert (model.calls, model.seen) == (0, [0.0])
    assert model.last is last
    assert not model.last.any()


# -- what the loss holds -----------------------------------------------------------------------------------------------


class Centered(nn.Module):
    """A criterion with a running mean, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3))
        self.norm, self.teacher = nn.BatchNorm1d(3), nn.Linear(3, 3).requires_grad_(False)

    def forward(self, answers: Tensor) -> Tensor:
        self.center.mul_(0.9).add_(answers.detach().mean(0))
        with torch.no_grad():
            self.teacher.weight.mul_(0.9)
        return (self.norm(answers) - self.center).square().mean() + answers.square().mean()


class Task:
    """An object with a criterion."""

    def __init__(self, criterion: nn.Module) -> None:
        self.criterion = criterion

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return self.criterion(model(batch))


@pytest.mark.parametrize("way", ["closure", "method", "object", "default", "within"])
def test_a_criterion_outside_of_the_model_keeps_its_running_statistics(way: str) -> None:
    criterion = Centered()
    task = Task(criterion)

    def inner(model: nn.Module, batch: Tensor) -> Tensor:
        return criterion(model(batch))

    losses: dict[str, Any] = {
        "closure": inner, "method": task.loss, "object": lambda model, batch: task.loss(model, batch),
        "default": lambda model, batch, used=criterion: used(model(batch)),
        "within": lambda model, batch: sum(inner(model, batch) for _ in range(1)),
    }  # fmt: skip
    before = values(criterion)
    report = audited(Net(), loss=losses[way])
    assert report.is_sound, report.describe()
    assert [name for name, value in values(criterion).items() if not torch.equal(value, before[name])] == []


@dataclass(frozen=True)
class Sample:
    """A batch in an object."""

    image: Tensor
    labels: list[Tensor]


def test_a_batch_that_a_pass_takes_apart_stays_whole() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        labels = batch.pop("labels")
        batch["image"].sub_(1.0)
        batch["more"][0].labels.pop().zero_()
        return F.cross_entropy(model(batch["image"]), labels)

    def outputs(model: nn.Module, batch: Any) -> Tensor:
        # the same again in the next pass
        return model(batch.pop("image").mul_(2.0))

    ones = torch.ones(2)
    batch = {"image": BATCH.clone(), "labels": torch.arange(6) % 3, "more": (Sample(BATCH, [ones]),)}
    from eomt.verification import audit

    report = audit(Net(), batch, loss, outputs, allow_random_base=True)
    assert report.findings == (), report.describe()
    assert list(batch) == ["image", "labels", "more"]
    assert torch.equal(batch["image"], BATCH)
    assert batch["more"][0].labels[0] is ones  # type: ignore[union-attr]
    assert ones.all()


# -- optimizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS, torch.optim.RMSprop])
def test_states_of_optimizers_stay_the_very_tensors(kind: Any) -> None:
    model = Net()
    settings = {"momentum": 0.9} if kind in (torch.optim.SGD, torch.optim.RMSprop) else {}
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=1e-2, **settings)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = square(model, BATCH)
        loss.backward()
        return loss

    optimizer.step(closure)
    held = {id(value): value for state in optimizer.state.values() for value in state.values()}
    before, attributes = copy.deepcopy(optimizer.state_dict()), dict(vars(optimizer))
    assert audited(model, optimizers=[optimizer]).is_sound
    assert held
    assert all(held.get(id(value)) is value for state in optimizer.state.values() for value in state.values())
    after = optimizer.state_dict()
    leaves = torch.utils._pytree.tree_leaves
    for one, two in zip(leaves(before), leaves(after), strict=True):
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    assert {name: vars(optimizer)[name] for name in attributes} == attributes


def test_a_rate_in_a_tensor_and_the_record_of_a_first_step_are_put_back() -> None:
    model = Net()
    rate = torch.tensor(1e-2)
    optimizer = adamw(model, lr=rate)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    assert audited(model, optimizers=[optimizer]).is_sound
    assert optimizer.param_groups[0]["lr"] is rate
    assert not optimizer.state
    assert not hasattr(optimizer, "_opt_called")
