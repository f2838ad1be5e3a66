"""Faults that come up in a pass or in the course of a training, and optimizers of other kinds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.verification.training import TrainingAudit
from tests.verification.test_false_alarms import BATCH, Net, adamw, audited, square


def named(findings: Any) -> set[tuple[str, str]]:
    return {(finding.kind, finding.where) for finding in findings}


class Frozen(Net):
    """Freezes its body on the way, as a network with frozen stages does."""

    where = "train"

    def train(self, mode: bool = True) -> nn.Module:
        if mode and self.where == "train":
            self.body.requires_grad_(False)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.where == "forward":
            self.body[0].requires_grad_(False)
        return super().forward(x)


@pytest.mark.parametrize(("where", "layer"), [("train", 2), ("forward", 0)])
def test_what_freezes_itself_in_a_training_pass_is_named(where: str, layer: int) -> None:
    model = Frozen()
    model.where = where
    assert ("frozen", f"body.{layer}.lora_A.weight") in named(audited(model).findings)
    assert model.body[layer].lora_A.weight.requires_grad


def drop(optimizer: torch.optim.Optimizer, part: nn.Module) -> None:
    gone = {id(parameter) for parameter in part.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]


def course(
    change: Callable[[Net, torch.optim.Optimizer], Any], every: int = 2, at: int = 2, steps: int = 6
) -> TrainingAudit:
    model = Net()
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.body.parameters() if p.requires_grad]}, {"params": model.head.parameters()}],
        lr=1e-2,
    )
    watch = TrainingAudit(model, BATCH, [optimizer], square, allow_random_base=True, every=every, warn=True)
    watch.start()
    for step in range(steps):
        optimizer.zero_grad()
        loss = square(model, BATCH)
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        watch.step()
        if step == at:
            change(model, optimizer)
    watch.end()
    return watch


def set_rate(group: dict[str, Any]) -> None:
    group["lr"] = 0.0


CHANGES: dict[str, tuple[Callable[[Net, torch.optim.Optimizer], Any], tuple[str, str]]] = {
    "body frozen": (lambda model, optimizer: model.body.requires_grad_(False), ("frozen", "body.0.lora_A.weight")),
    "head frozen": (lambda model, optimizer: model.head.requires_grad_(False), ("frozen", "head.weight")),
    "head dropped": (lambda model, optimizer: drop(optimizer, model.head), ("not_in_optimizer", "head.weight")),
    "head's rate": (lambda model, optimizer: set_rate(optimizer.param_groups[1]), ("not_moving", "head")),
    "all rates": (lambda model, optimizer: [set_rate(group) for group in optimizer.param_groups], ("rate_zero", "")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_stops_in_the_course_of_a_training_is_named(name: str) -> None:
    change, finding = CHANGES[name]
    watch = course(change)
    assert finding in named(watch.reports["step 6"].findings)
    if finding[0] in ("frozen", "not_in_optimizer"):
        assert finding in named(watch.reports["end"].findings)


def test_a_head_that_never_moved_is_named_at_the_end_and_a_sound_training_is_sound() -> None:
    watch = course(lambda model, optimizer: None)
    assert all(report.is_sound for report in watch.reports.values())
    model = Net()
    optimizer = adamw(model.body)
    watch = TrainingAudit(model, BATCH, None, square, allow_random_base=True, every=0, warn=True)
    watch.start()
    for _ in range(3):
        optimizer.zero_grad()
        square(model, BATCH).backward()
        optimizer.step()
        watch.step()
    assert ("not_moving", "head") in named(watch.end().findings)


def test_optimizers_that_ask_for_a_closure_or_have_no_rate_are_stepped() -> None:
    model = Net()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.clone() for parameter in trained]
    assert audited(model, optimizers=[torch.optim.LBFGS(trained)]).findings == ()
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    assert audited(model, optimizers=[adafactor(trained, lr=None)]).findings == ()
    assert all(torch.equal(one, two) for one, two in zip(before, trained, strict=True))
    with pytest.raises(UserError, match=r"^optimizers: holds 3 \(int\); give optimizers of torch$"):
        audited(model, optimizers=[3])


def test_a_training_step_of_lightning_needs_no_index() -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from eomt.verification.lightning import _training_loss

    class Module(lightning.LightningModule):
        def training_step(self, batch: Tensor) -> Tensor:
            return batch.sum()

    assert float(_training_loss(Module(), torch.ones(2))) == 2.0


def test_metrics_of_lightning_are_put_back() -> None:
    lightning, torchmetrics = pytest.importorskip("lightning.pytorch"), pytest.importorskip("torchmetrics")
    from eomt.verification.lightning import _training_loss

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torchmetrics.MeanMetric()

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.mean(batch)
            return batch.sum()

    module = Module()
    module.mean(torch.tensor([3.0]))
    _training_loss(module, torch.ones(2))
    assert (float(module.mean.compute()), module.mean._update_count) == (3.0, 1)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 3))


def test_a_model_without_adapters_is_looked_at_in_evaluation() -> None:
    model = plain()
    assert audited(model, stage="end").findings == ()
    nn.init.zeros_(model[2].weight)
    nn.init.ones_(model[2].bias)
    assert ("classes_identical", "") in named(audited(model, stage="end").findings)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * (1 if self.training else float("nan"))

    assert ("answers_not_finite", "") in named(audited(Broken()).findings)
    # a batch that only the loss takes
    assert audited(plain(), loss=lambda model, batch: square(model, BATCH), outputs=None).findings == ()


def test_a_trained_head_that_evaluation_leaves_out_is_a_warning() -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.old = nn.Linear(8, 3).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.training else self.old(self.body(x))

    report = audited(Two())
    assert report.is_sound
    assert named(report.findings) == {("no_effect", "head")}


@pytest.mark.parametrize("never", [torch.finfo(torch.float32).min, -torch.inf])
def test_what_stands_for_never_does_not_hide_a_difference(never: float) -> None:
    class Masked(Net):
        bypassed = False

        def forward(self, x: Tensor) -> Tensor:
            body = self.body
            if self.bypassed and not torch.is_grad_enabled():
                x = torch.tanh(body[0].base_layer(x))
                answers = self.head(body[2].base_layer(x))
            else:
                answers = super().forward(x)
            return answers.masked_fill(torch.tensor([False, False, True]), never)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)[:, :2].square().mean()

    model = Masked()
    assert audited(model, loss=loss).findings == ()
    nn.init.ones_(model.body[2].lora_B.weight)
    nn.init.ones_(model.body[0].lora_B.weight)
    assert "samples_identical" not in {kind for kind, _ in named(audited(model, loss=loss, stage="end").findings)}
    model.bypassed = True
    assert ("bypassed", "") in named(audited(model, loss=loss).findings)


def test_parameters_outside_of_the_model_get_their_gradients_back() -> None:
    model, criterion = Net(), nn.Linear(3, 3)
    optimizer = torch.optim.AdamW([*(p for p in model.parameters() if p.requires_grad), *criterion.parameters()])
    before = criterion.weight.detach().clone()
    report = audited(model, loss=lambda model, batch: criterion(model(batch)).square().mean(), optimizers=[optimizer])
    assert report.findings == ()
    assert criterion.weight.grad is None
    assert torch.equal(criterion.weight, before)


def test_an_optimizer_that_steps_within_the_backward_pass_makes_no_step() -> None:
    model = Net()
    optimizers = {p: torch.optim.AdamW([p], lr=0.1) for p in model.parameters() if p.requires_grad}

    def hook(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(hook)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert audited(model, optimizers=list(optimizers.values())).findings == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    square(model, BATCH).backward()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.head.named_parameters("head"))


def test_layers_that_share_a_tensor_of_their_pairs_are_named() -> None:
    model = Net()
    model.body.append(nn.Tanh())
    model.body.append(type(model.body[2])(8, 8))
    model.body[4].lora_B.weight = model.body[2].lora_B.weight
    report = audited(model)
    assert [(finding.kind, finding.where, finding.part) for finding in report.findings] == [
        ("shared", "body.4", "lora_B")
    ]
    model.body[4].lora_A.weight = model.body[2].lora_A.weight
    assert [finding.part for finding in audited(model).findings] == ["lora_A", "lora_B"]
    # beside one weight, one pair is as it should be
    model.body[4].base_layer.weight = model.body[2].base_layer.weight
    assert audited(model).findings == ()


class Bypassed(nn.Module):
    """A frozen body and a trained head that evaluation leaves out, without a graph."""

    way = "bypass"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base, self.head = nn.Linear(6, 3).requires_grad_(False), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.head(self.base(x))
        if self.way == "bypass":
            return self.base(x)
        with torch.no_grad():
            answers = self.head(self.base(x))
            return (answers > answers.mean(0)).float() if self.way == "classes" else answers


@pytest.mark.parametrize(("way", "found"), [("bypass", {("no_effect", "")}), ("classes", set()), ("no_grad", set())])
@pytest.mark.parametrize("stage", [None, "end"])
def test_a_head_that_evaluation_bypasses_without_a_graph_is_named(
    way: str, found: set[tuple[str, str]], stage: str | None
) -> None:
    model = Bypassed()
    model.way = way
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = audited(model, stage=stage)
    assert named(report.findings) == found, report.describe()
    assert report.is_sound == (not found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_whose_answer_is_none_of_what_is_trained_is_not_called_bypassed() -> None:
    class Features(Bypassed):
        def forward(self, x: Tensor) -> Tensor:
            return self.base(x)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model.head(model(batch)).square().mean()

    assert audited(Features(), loss=loss).is_sound


def test_adapters_that_act_in_training_alone_are_named() -> None:
    class Switched(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                return super().forward(x)
            with torch.no_grad():
                return self.head(torch.tanh(self.body[0].base_layer(x)))

    assert {("not_called", "body.0"), ("not_called", "body.2")} <= named(audited(Switched()).findings)
