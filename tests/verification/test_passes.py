"""What cannot be audited or probed, since the caller gave something else, is refused in one line."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eomt
from eomt.errors import UserError
from eomt.lora import LoRAConfig, apply_lora
from eomt.verification.passes import call

BATCH = torch.rand(5, 4)


def adapted() -> nn.Module:
    config = LoRAConfig(rank=2, target_modules=["0"], freeze_base_model=True)
    return apply_lora(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), config)


def mean_square(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def audit(batch: Any = BATCH, loss: Any = mean_square, **arguments: Any) -> eomt.AuditReport:
    return eomt.audit(adapted(), batch, loss, allow_random_base=True, **arguments)


def made_in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.rand(5, 4)


BATCHES: dict[str, tuple[Any, str]] = {
    "none": (None, "batch is empty: None"),
    "mapping": ({}, r"batch is empty: \{\} \(dict\); give one with at least one sample"),
    "list": ([], "batch is empty"),
    "no images": (BATCH[:0], "batch is empty"),
    "no images in a mapping": ({"image": BATCH[:0], "name": []}, "batch is empty"),
    "inference": (made_in_inference_mode(), "'batch, tensor 0' was made in torch.inference_mode"),
}


@pytest.mark.parametrize(("batch", "message"), BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_that_nothing_can_be_learnt_from_is_refused(batch: Any, message: str) -> None:
    for name, function in (("audit", audit), ("check_adapters", lambda batch: eomt.check_adapters(adapted(), batch))):
        with pytest.raises(UserError, match=f"^{name}: {message}") as error:
            function(batch)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("function", [audit, lambda: eomt.check_adapters(adapted(), BATCH)])
def test_inference_mode_is_refused(function: Any) -> None:
    with torch.inference_mode(), pytest.raises(UserError, match=r"called in torch\.inference_mode"):
        function()


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = adapted()
    for function in (
        lambda: eomt.audit(model, BATCH, mean_square, allow_random_base=True),
        lambda: eomt.check_adapters(model, BATCH),
    ):
        with pytest.raises(UserError, match=r"'0.weight' was made in torch.inference_mode"):
            function()


LOSSES: dict[str, tuple[Any, str]] = {
    "number": (5, r"audit: loss is 5 \(int\); must be Callable"),
    "criterion": (nn.MSELoss(), "loss: MSELoss takes an answer and a target"),
    "one argument": (
        lambda batch: 0,
        r"loss: the function cannot be called with model and batch \(too many positional",
    ),
    "no scalar": (lambda model, batch: model(batch), r"loss: returns torch.float32 of shape \[5, 4\]; return one real"),
    "complex": (lambda model, batch: 1j * mean_square(model, batch), "loss: returns torch.complex64"),
    "float": (lambda model, batch: 3.0, r"loss: returns 3.0 \(float\); return the loss as a tensor"),
    "mapping": (lambda model, batch: {"loss": mean_square(model, batch)}, r"loss: returns \{'loss': .*\(dict\)"),
}


@pytest.mark.parametrize(("loss", "message"), LOSSES.values(), ids=LOSSES.keys())
def test_a_loss_that_is_no_scalar_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        audit(loss=loss)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_is_the_fault_itself(value: str) -> None:
    report = audit(loss=lambda model, batch: mean_square(model, batch) * float(value))
    assert str(report).startswith(f"the loss is {value}; look for such values in batch")


def test_a_loss_without_a_gradient_is_a_fault() -> None:
    report = audit(loss=lambda model, batch: mean_square(model, batch).detach())
    assert "the loss does not depend on anything trainable" in str(report)


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"audit: optimizers is .*; must be Iterable or Optimizer or None"):
        audit(optimizers=1e-3)


OUTPUTS: dict[str, tuple[Any, str]] = {
    "number": (5, r"outputs is 5 \(int\); must be Callable"),
    "tuple": (lambda model, batch: (model(batch),), r"outputs: returns .*\(tuple\); return the model's answer as one"),
    "nothing": (lambda model, batch: None, "outputs: returns None"),
    "no numbers": (lambda model, batch: model(batch)[:0], r"outputs: returns a tensor of shape \[0, 4\], without"),
}


@pytest.mark.parametrize(("outputs", "message"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_an_answer_that_is_no_tensor_is_refused(outputs: Any, message: str) -> None:
    for function in (lambda: audit(outputs=outputs), lambda: eomt.check_adapters(adapted(), BATCH, outputs)):
        with pytest.raises(UserError, match=message) as error:
            function()
        assert len(str(error.value)) < 300


@pytest.mark.parametrize("batch", [torch.rand(5, 3), torch.ones(5, 4, dtype=torch.long)])
def test_a_batch_that_does_not_fit_is_refused_with_what_pytorch_says(batch: Tensor) -> None:
    with pytest.raises(UserError, match=r"^outputs: Sequential cannot answer the batch \(.*\); give a batch that fits"):
        eomt.check_adapters(adapted(), batch)


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, image: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RecursionError, NotImplementedError])
def test_other_errors_of_a_model_stay_what_they_are(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call(Fails(kind("not of the batch")), BATCH)
