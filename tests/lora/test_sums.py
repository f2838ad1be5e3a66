"""Sums that adapted layers make again."""

import pytest
import torch
from torch import Tensor, nn

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.remade import recipe_of
from eomt.lora.sums import remade_sum
from eomt.verification.kept import kept_bytes

NORM = nn.LayerNorm(8, dtype=torch.float64).requires_grad_(False)


def parts() -> tuple[Tensor, Tensor]:
    """A tensor with a graph, and positions for all of its rows."""
    torch.manual_seed(0)
    source = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    return source * 1, torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)


class Adapted(nn.Module):
    """A layer behind a sum, in which positions may be added as usual."""

    def __init__(self, is_remade: bool) -> None:
        super().__init__()
        self.attention = nn.Linear(8, 8)
        self.is_remade = is_remade

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = NORM(x)
        return self.attention(remade_sum(x, positions) if self.is_remade else x + positions)


def adapted(is_remade: bool) -> nn.Module:
    torch.manual_seed(0)
    network = Adapted(is_remade)
    config = LoRAConfig(rank=2, lora_dropout=0.3, target_modules=["attention"], freeze_base_model=True)
    network = apply_lora(network, config).double().train()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def test_a_sum_is_made_again() -> None:
    x, positions = parts()
    found = remade_sum(NORM(x), positions)
    recipe = recipe_of(found)
    assert recipe is not None
    assert not any(tensor is not None and tensor.requires_grad for tensor in recipe.kept)
    torch.testing.assert_close(recipe.make(*recipe.kept), found.detach())


def test_gradients_are_those_of_a_plain_sum() -> None:
    gradients = []
    for is_remade in (False, True):
        network, (x, positions) = adapted(is_remade), parts()
        torch.manual_seed(1)
        loss = network(x, positions).pow(3).sum()
        gradients.append(
            torch.autograd.grad(loss, [x, positions, *(p for p in network.parameters() if p.requires_grad)])
        )
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_sum_is_not_kept() -> None:
    def kept(is_remade: bool) -> int:
        network, (x, positions) = adapted(is_remade), parts()
        output = network(x, positions.detach())
        found = kept_bytes(network, output)
        assert found.of_inputs["attention"] == 0 or not is_remade
        return found.total

    x, positions = parts()
    # instead of the sum the positions, which are smaller and for all that are added to them
    assert kept(False) - kept(True) == 8 * (x.numel() - positions.numel())


def test_what_cannot_be_made_again_is_summed_as_usual() -> None:
    x, positions = parts()
    found = remade_sum(x + 1, positions)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "AddBackward0"
    with torch.no_grad():
        torch.testing.assert_close(remade_sum(x, positions), x + positions)


@pytest.mark.parametrize("part", ["source", "positions"])
def test_a_part_that_was_changed_in_place_is_noticed(part: str) -> None:
    network, (x, positions) = adapted(True), parts()
    positions = positions.detach()
    loss = network(x, positions).sum()
    (x if part == "source" else positions).detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_function_transforms_take_a_sum() -> None:
    x, positions = parts()
    found = torch.func.grad(lambda x: remade_sum(NORM(x), positions.detach()).pow(3).sum())(x.detach())
    (expected,) = torch.autograd.grad((NORM(x) + positions).pow(3).sum(), x)
    torch.testing.assert_close(found, expected)
