"""Faults that come up in the course of a training, of which a decay or another finding hid some."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eomt.verification.training import TrainingAudit
from tests.verification.test_false_alarms import BATCH, Net, adamw, square


class Cut(Net):
    """Can be cut before its head, and has a layer of dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.1))
        self.is_cut = False

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.head(features.detach() if self.is_cut else features)


def course(
    change: Callable[[Any, int], Any], steps: int = 24, every: int = 4, step: Callable[[Any, Any], Any] | None = None
) -> TrainingAudit:
    """Train a network, whose decay moves what has a gradient of zero, and which is changed before each step."""
    model = Cut()
    optimizer = adamw(model, weight_decay=0.1)
    watch = TrainingAudit(model, BATCH, [optimizer], square, allow_random_base=True, every=every, warn=True)
    watch.start()
    for number in range(steps):
        change(model, number)
        optimizer.zero_grad(set_to_none=False)
        loss = square(model, BATCH)
        loss.backward()
        (step or (lambda model, optimizer: optimizer.step()))(model, optimizer)
        watch.step()
    watch.end()
    return watch


def found(watch: TrainingAudit, name: str) -> set[tuple[str, str]]:
    return {(finding.kind, finding.where) for finding in watch.reports[name].findings}


def nothing(model: Any, number: int) -> None:
    pass


def test_a_sound_training_is_sound() -> None:
    watch = course(nothing)
    assert all(not report.findings for report in watch.reports.values())
    assert sorted(watch.effects) == [4, 8, 12, 16, 20, 24]


def test_what_a_decay_moves_without_a_gradient_is_named() -> None:
    def cut(model: Any, number: int) -> None:
        model.is_cut = number >= 10

    watch = course(cut)
    assert not found(watch, "step 8")
    assert found(watch, "step 16") == {("zero_gradient", "body.0"), ("zero_gradient", "body.2")}


def test_a_pair_of_which_a_decay_moves_a_alone_is_named() -> None:
    def clear(model: Any, optimizer: Any) -> None:
        for tensor in (model.body[2].lora_A.weight, model.body[2].lora_B.weight):
            tensor.grad.zero_()
        optimizer.step()

    watch = course(nothing, step=clear)
    finding = next(finding for finding in watch.reports["step 4"].findings)
    assert (finding.kind, finding.where, finding.part) == ("still_zero", "body.2", "lora_B")


def test_steps_that_a_scaler_skips_for_ever_are_a_fault() -> None:
    def overflow(model: Any, optimizer: Any) -> None:
        model.body[0].lora_A.weight.grad.fill_(torch.inf)

    watch = course(nothing, step=overflow)
    assert watch.reports["step 8"].is_sound
    assert ("not_moving", "") in found(watch, "step 20")


def test_parts_that_are_frozen_in_turn_are_passed() -> None:
    def toggle(model: Any, number: int) -> None:
        model.head.requires_grad_(number % 2 == 0)

    watch = course(toggle)
    assert all(report.is_sound for name, report in watch.reports.items() if name.startswith("step"))


def test_a_base_that_is_unfrozen_and_one_that_is_written_to_are_named() -> None:
    def unfreeze(model: Any, number: int) -> None:
        if number == 9:
            model.body[0].base_layer.requires_grad_(True)

    def decay(model: Any, number: int) -> None:
        with torch.no_grad():
            model.body[0].base_layer.weight.mul_(0.999 if number >= 9 else 1.0)

    for change, kind in ((unfreeze, "not_meant_to_train"), (decay, "base_moved")):
        watch = course(change)
        assert not found(watch, "step 8")
        assert (kind, "body.0.base_layer.weight") in found(watch, "step 12")


def test_a_model_that_is_left_in_evaluation_mode_is_a_warning() -> None:
    def evaluate(model: Any, number: int) -> None:
        if number == 9:
            model.eval()

    watch = course(evaluate)
    assert not found(watch, "step 8")
    assert found(watch, "step 12") == {("evaluation_mode", "body.1")}


def test_adapters_that_are_merged_on_the_way_are_named() -> None:
    def merge(model: Any, number: int) -> None:
        if number == 9:
            model.body[0].merged = True

    assert ("merged", "body.0") in found(course(merge), "step 12")


def test_a_finding_does_not_hide_that_adapters_do_nothing() -> None:
    def crawl(model: Any, optimizer: Any) -> None:
        with torch.no_grad():
            for layer in (model.body[0], model.body[2]):
                layer.lora_B.weight += 1e-12

    watch = course(nothing, step=crawl)
    assert ("no_effect", "") in found(watch, "step 4")
    assert ("not_moving", "head") in found(watch, "step 4")
    assert ("no_effect", "") in found(watch, "end")
