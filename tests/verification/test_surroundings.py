"""States of frozen parts that a training pass moves, and parameters that the model does not hold."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.verification.test_false_alarms import Lora, Net, audited


def kinds(model: nn.Module) -> set[tuple[str, str, str]]:
    return {(finding.kind, finding.where, finding.severity) for finding in audited(model).findings}


class Normed(Net):
    """Has a layer with spectral norm in front."""

    def __init__(self) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


def test_vectors_of_spectral_norm_of_a_frozen_layer_drift() -> None:
    model = Normed()
    assert kinds(model) == set()
    model.first.requires_grad_(False)
    assert kinds(model) == {("drifting_statistics", "first.parametrizations.weight.0", "fault")}
    # at rest, as those of a base that was trained are
    model.train()
    for _ in range(200):
        model.first(torch.ones(1, 6))
    assert kinds(model) == set()


class Coded(Net):
    """Keeps a table that follows what it is given.

    Args:
        name: Of the table.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        table = self.get_buffer(self.name)
        if self.training:
            table.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x + table)


@pytest.mark.parametrize(("name", "is_named"), [("code", True), ("queue", False)])
def test_a_table_that_follows_is_a_warning(name: str, is_named: bool) -> None:
    assert kinds(Coded(name)) == ({("drifting_statistics", name, "warning")} if is_named else set())


class Listed(Net):
    """Holds an adapter in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = [Lora(6, 6)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.towers[0](x))


def test_what_a_plain_list_holds_is_no_part_of_the_model() -> None:
    assert kinds(Listed()) == {("not_in_model", "towers", "fault")}
    model = Listed()
    model.towers[0].requires_grad_(False)
    assert kinds(model) == set()


def test_what_an_optimizer_holds_beside_the_model_is_no_stranger() -> None:
    model = Listed()
    parameters = [*(p for p in model.parameters() if p.requires_grad), *model.towers[0].lora_A.parameters()]
    parameters += model.towers[0].lora_B.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    assert audited(model, optimizers=[optimizer]).findings == ()
