"""A schedule that is zero at every step is named; a warm-up that starts at zero is not, and nothing is stepped."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from eomt.verification.schedules import Schedule
from eomt.verification.training import TrainingAudit
from tests.verification.test_false_alarms import BATCH, Net, adamw, audited, square


def found(make: Any, steps: int | None = None) -> list[tuple[str, str]]:
    model = Net()
    optimizer = adamw(model)
    scheduler = make(optimizer)
    before = {name: copy.deepcopy(value) for name, value in scheduler.state_dict().items() if name != "_schedulers"}
    settings = copy.deepcopy(optimizer.state_dict())
    given = scheduler if steps is None else Schedule(scheduler, steps)
    report = audited(model, optimizers=[optimizer], schedulers=[given])
    after = scheduler.state_dict()
    assert all(after[name] == value for name, value in before.items())
    assert optimizer.state_dict() == settings
    assert scheduler.optimizer is optimizer
    return [(finding.kind, finding.where) for finding in report.findings]


def linear(warmup: int, steps: int) -> Any:
    transformers = pytest.importorskip("transformers")
    return lambda optimizer: transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)


ZERO = {
    "lambda": (lambda optimizer: LambdaLR(optimizer, lambda step: 0.0), None),
    "no steps": (linear(0, 0), None),
    "a warm-up that is never over": (lambda optimizer: LambdaLR(optimizer, lambda step: float(step >= 2000)), None),
    "a warm-up that outlasts the training": (lambda optimizer: LambdaLR(optimizer, lambda n: float(n >= 50)), 50),
    "one epoch": (lambda optimizer: LambdaLR(optimizer, lambda epoch: epoch / 10), 1),
    "constant": (lambda optimizer: ConstantLR(optimizer, 0.0, 100), 80),
    "in a sequence": (
        lambda optimizer: SequentialLR(optimizer, [ConstantLR(optimizer, 0.0, 90), LinearLR(optimizer)], [90]),
        60,
    ),
}


@pytest.mark.parametrize("name", ZERO)
def test_a_schedule_of_zeros_is_named(name: str) -> None:
    make, steps = ZERO[name]
    assert found(make, steps) == [("rate_zero", "")]


HEALTHY = {
    "warm-up": linear(500, 5000),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 20),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, 20),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 1e-9, total_iters=5), CosineAnnealingLR(optimizer, 9)], [5]
    ),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer),
}


@pytest.mark.parametrize("steps", [None, 20])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_schedule_that_rises_is_passed(name: str, steps: int | None) -> None:
    assert found(HEALTHY[name], steps) == []


def test_one_group_that_never_gets_a_rate_is_named_alone() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.body.parameters() if p.requires_grad]}, {"params": model.head.parameters()}]
    )
    scheduler = LambdaLR(optimizer, [lambda step: 1.0, lambda step: 0.0])
    report = audited(model, optimizers=[optimizer], schedulers=[scheduler])
    assert [(finding.kind, finding.where) for finding in report.findings] == [("rate_zero", "head.weight")]


def test_a_rate_that_is_tiny_at_the_end_of_the_training_hardly_moves() -> None:
    kinds = {kind for kind, _ in found(lambda optimizer: LambdaLR(optimizer, lambda step: step * 1e-12), 30)}
    assert kinds == {"hardly_moves"}


def test_a_loop_of_ones_own_gives_its_schedule() -> None:
    model = Net()
    optimizer = adamw(model)
    scheduler = LambdaLR(optimizer, lambda step: 0.0)
    watch = TrainingAudit(model, BATCH, [optimizer], square, allow_random_base=True, warn=True, schedulers=[scheduler])
    assert [finding.kind for finding in watch.start().findings] == ["rate_zero"]


def test_the_trainer_of_transformers_shows_its_schedule(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from transformers import Trainer, TrainingArguments

    from eomt.verification.transformers import AuditCallback
    from tests.verification.hugging_face import adapted, images, optimizer_of, vit
    from tests.verification.test_training_audit import Rows

    model, callback = adapted(vit()), AuditCallback(allow_random_base=True, warn=True)
    optimizer = optimizer_of(model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=3, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    schedule = LambdaLR(optimizer, lambda step: 0.0)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(images()),
        callbacks=[callback],
        optimizers=(optimizer, schedule),
    ).train()
    assert [finding.kind for finding in callback.reports["start"].findings] == ["rate_zero"]


@pytest.mark.parametrize(("interval", "is_zero"), [("epoch", True), ("step", False)])
def test_lightning_shows_its_schedules(interval: str, is_zero: bool) -> None:
    pytest.importorskip("peft")
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader, TensorDataset

    from eomt.verification.lightning import AuditCallback
    from tests.verification.test_training_audit import Classifier

    class Warm(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer: Any = super().configure_optimizers()
            schedule = LambdaLR(optimizer, lambda count: min(1.0, count / 2))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}

    callback = AuditCallback(allow_random_base=True, warn=True)
    data = DataLoader(TensorDataset(torch.randn(9, 3, 16, 16), torch.arange(9) % 3), batch_size=3)
    Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    ).fit(Warm(), data)  # fmt: skip
    kinds = [finding.kind for finding in callback.reports["start"].findings]
    assert ("rate_zero" in kinds) == is_zero, kinds
