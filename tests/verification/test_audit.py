"""The audit as a library function, over modules that are none of this package's networks."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eomt
from eomt.errors import UserError
from eomt.lora import LoRAConfig, apply_lora
from eomt.verification.audit import call


@dataclass
class Found:
    scores: Tensor
    boxes: list[Tensor]
    names: str = "of classes"


class Detector(nn.Module):
    """Answers with a dataclass, as many detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, image: Tensor, threshold: float = 0.0) -> Found:
        scores = self.head(self.body(image))
        return Found(scores, [scores[:, :2]])


class Labels(nn.Module):
    """Answers with the classes alone."""

    def forward(self, image: Tensor) -> Tensor:
        return image.argmax(dim=1)


def adapted() -> Detector:
    config = LoRAConfig(rank=2, target_modules=["body"], freeze_base_model=True, trainable_modules=["head"])
    return apply_lora(Detector(), config)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).scores.square().mean()


def test_answers_in_a_dataclass_are_read() -> None:
    report = eomt.audit(adapted(), {"image": torch.rand(5, 4)}, loss, allow_random_base=True)
    assert report.is_sound, report
    assert report.adapters == ("body",)
    assert call(Detector(), {"image": torch.rand(5, 4), "threshold": 0.5}).shape == (5 * 3 + 5 * 2,)


def test_a_random_base_is_named_with_the_argument_of_the_library() -> None:
    report = eomt.audit(adapted(), {"image": torch.rand(5, 4)}, loss)
    with pytest.raises(UserError, match=r"^audit: 'body.weight' is frozen but was never loaded .*allow_random_base"):
        report.require()


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (
            Detector(),
            {"image": torch.rand(5, 4), "label": 1},
            r"outputs: Detector cannot be called .*'label'.*outputs=",
        ),
        (Detector(), {}, r"outputs: Detector cannot be called .*'image'.*; give outputs="),
        (Labels(), torch.rand(5, 4), r"outputs: Labels answers Tensor, without real numbers; give outputs="),
    ],
)
def test_what_the_audit_cannot_call_or_compare_is_refused(model: nn.Module, batch: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(model, batch)


def test_an_error_inside_of_the_model_keeps_its_words() -> None:
    with pytest.raises(UserError, match=r"^outputs: Detector cannot answer the batch \(TypeError: linear"):
        call(Detector(), {"image": "no tensor"})


class Attention(nn.Module):
    """One head; in float64, whose rounding is far below the epsilon of AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4).double() for _ in range(3))

    def forward(self, states: Tensor) -> Tensor:
        scores = self.query(states) @ self.key(states).transpose(1, 2)
        return scores.softmax(dim=-1) @ self.value(states)


@pytest.mark.parametrize("still", ["", "key"])
def test_the_bias_of_keys_which_softmax_takes_away_is_no_fault_but_a_weight_that_stays_is(still: str) -> None:
    """15.30: the audit refused configs/vqa_lora.yaml for the key's bias of its new cross-attention."""
    torch.manual_seed(0)
    model, batch = Attention(), {"states": torch.rand(5, 3, 4, dtype=torch.float64)}
    groups = [
        {"params": list(module.parameters()), "lr": 0.0 if name == still else 1e-3}
        for name, module in model.named_children()
    ]
    report = eomt.audit(
        model, batch, lambda model, batch: model(**batch).square().mean(), optimizers=[torch.optim.AdamW(groups)]
    )
    # a layer is one fault
    assert [fault.partition(" ")[0] for fault in report.faults] == ([f"'{still}.weight'"] if still else [])
