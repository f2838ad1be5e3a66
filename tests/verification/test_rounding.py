"""Gradients that are rounding alone are none, and small ones are."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.verification import audit
from eomt.verification.rounding import rounding_alone, values_of
from tests.verification.test_false_alarms import BATCH, Lora, Net, audited


class Crossed(nn.Module):
    """Attention whose queries and keys are adapted, over a context of some tokens.

    Args:
        tokens: Number of them; of one, softmax makes a weight of 1 whatever its key is.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = Lora(6, 8), Lora(6, 8), Lora(6, 8)
        self.head = nn.Linear(8, 3)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        context = x[:, None] + torch.arange(self.tokens, dtype=x.dtype)[:, None] / 3
        query, key, value = self.query(x)[:, None], self.key(context), self.value(context)
        heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (query, key, value)]
        return self.head(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))[:, 0]


class Shifted(nn.Module):
    """One adapted number that is added to all channels, of which LayerNorm subtracts the mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.shift = nn.Linear(6, 8), Lora(6, 1)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x) + self.shift(x)))


def cross_entropy(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch), torch.arange(len(batch)) % 3)


@pytest.mark.parametrize("stage", [None, "end"])
def test_adapters_behind_a_softmax_over_one_key_are_named(stage: str | None) -> None:
    model = Crossed(1)
    for layer in (model.query, model.key, model.value):
        nn.init.normal_(layer.lora_B.weight)
    found = audited(model, loss=cross_entropy, stage=stage).findings
    named = {(finding.kind, finding.where) for finding in found if finding.severity == "fault"}
    # whether they are zero or rounding alone depends on the processor
    assert named == {("zero_gradient", "query"), ("zero_gradient", "key")}


@pytest.mark.parametrize("stage", [None, "end"])
def test_an_adapter_that_normalisation_takes_out_is_named(stage: str | None) -> None:
    model = Shifted()
    nn.init.normal_(model.shift.lora_B.weight)
    found = [f for f in audited(model, loss=cross_entropy, stage=stage).findings if f.severity == "fault"]
    assert [(finding.kind, finding.where) for finding in found] == [("zero_gradient", "shift")]
    assert all("rounding alone" in finding.seen for finding in found)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_gradients_are_gradients(scale: float, dtype: torch.dtype) -> None:
    model = Crossed(4).to(dtype)
    batch = BATCH.to(dtype)
    # keys that hardly matter, and a head that hardly answers
    with torch.no_grad():
        model.query.base_layer.weight.mul_(1e-3)
        model.head.weight.mul_(scale)
    report = audit(model, batch, lambda model, batch: cross_entropy(model, batch) * scale, allow_random_base=True)
    assert not report.faults, report.describe()


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    model = Net()

    def distilled(model: nn.Module, batch: Tensor) -> Tensor:
        with torch.no_grad():
            target = model(batch).softmax(-1)
        return F.kl_div(model(batch).log_softmax(-1), target, reduction="batchmean")

    found = audited(model, loss=distilled, optimizers=None).findings
    assert {finding.where for finding in found if finding.kind == "zero_gradient"} == {"body.0", "body.2", "head"}


def test_a_bias_that_softmax_does_not_see_is_named_where_nothing_else_is_trained() -> None:
    model = Crossed(4).requires_grad_(False)
    for name in ("query", "key", "value"):
        setattr(model, name, getattr(model, name).base_layer)
    model.key.bias.requires_grad_(True)
    found = audited(model, loss=cross_entropy, optimizers=None).findings
    assert [(finding.kind, finding.where) for finding in found] == [("zero_gradient", "key")]
    model.head.requires_grad_(True)
    assert audited(model, loss=cross_entropy, optimizers=None).findings == ()


def test_gradients_are_as_they_were_and_what_cannot_be_repeated_is_left_alone() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            context.used = False
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            if context.used:
                raise RuntimeError("a second time")
            context.used = True
            return gradient

    small, large = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
    value = (Once.apply(small) * 1e-7).sum() + large.sum()
    value.backward(retain_graph=True)
    before = small.grad
    assert rounding_alone(value, [small, large], False) == set()
    assert rounding_alone(value, [large], False) is None
    assert small.grad is before


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.strided])
def test_numbers_of_a_gradient(layout: torch.layout) -> None:
    dense = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert values_of(dense if layout == torch.strided else dense.to_sparse(1)).sum() == 3


def test_an_embedding_with_sparse_gradients_is_audited() -> None:
    model = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Flatten(), nn.Linear(16, 3).requires_grad_(False))
    batch = torch.randint(0, 20, (4, 2))
    optimizer = torch.optim.SparseAdam(list(model[0].parameters()))
    assert audit(model, batch, cross_entropy, optimizers=[optimizer], allow_random_base=True).findings == ()
