"""Several adapters of one base: each answers as if it were alone, and the base is in memory once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eomt.demo.models import BASE, Models
from eomt.errors import UserError
from eomt.lora import save_adapter
from eomt.lora.layers import disable_adapters, lora_layers
from eomt.models import EoMT
from tests.demo_server import adapted
from tests.tiny import make_eomt, make_image


class Asks:
    """In place of a predictor: the network itself."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self) -> torch.Tensor:
        with torch.no_grad():
            return self.network(make_image(1))[-1].class_logits


def base() -> EoMT:
    torch.manual_seed(3)
    return make_eomt(num_classes=3)


def answer(models: Models, name: str) -> torch.Tensor:
    with models.using(name) as asks:
        return asks()  # type: ignore[operator]


def test_adapters_of_other_ranks_and_layers_are_switched_and_share_the_base(tmp_path: Path) -> None:
    first, second = base(), base()
    adapted(first, trainable_modules=["class_head"])
    adapted(second, rank=2, target_modules=["mlp"], trainable_modules=["class_head"])
    with torch.no_grad():
        second.class_head.weight.add_(1)
    save_adapter(second, tmp_path / "other", check_called=False)
    alone = {"first": Asks(first)(), "other": Asks(second)()}
    with disable_adapters(first):
        plain = Asks(first)()
    models = Models(first, Asks, "first")  # type: ignore[arg-type]
    models.add("other", tmp_path / "other")
    assert models.names == ["first", "other", BASE]
    for name in ("first", "other", "first"):
        torch.testing.assert_close(answer(models, name), alone[name], rtol=0, atol=0)
    torch.testing.assert_close(answer(models, BASE), plain, rtol=0, atol=0)
    torch.testing.assert_close(answer(models, "first"), alone["first"], rtol=0, atol=0)
    assert not torch.equal(alone["first"], plain)
    assert not torch.equal(alone["first"], alone["other"])
    with models.using("other") as asks:
        theirs = {parameter.data_ptr() for parameter in asks.network.parameters()}  # type: ignore[attr-defined]
    ours = {parameter.data_ptr(): parameter.numel() for parameter in first.parameters()}
    total = sum(ours.values())
    trained = sum(layer.lora_a.numel() + layer.lora_b.numel() for layer in lora_layers(first).values())
    shared = sum(size for place, size in ours.items() if place in theirs)
    head = sum(parameter.numel() for parameter in first.class_head.parameters())
    assert shared == total - trained - head


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    network = adapted(base(), trainable_modules=["class_head"])
    before = Asks(network)()
    models = Models(network, Asks, "first")  # type: ignore[arg-type]
    torch.manual_seed(4)
    save_adapter(adapted(make_eomt(num_classes=3)), tmp_path / "stranger", check_called=False)
    with pytest.raises(UserError, match="another base"):
        models.add("stranger", tmp_path / "stranger")
    save_adapter(adapted(base()), tmp_path / "headless", check_called=False)
    with pytest.raises(UserError, match="class_head"):
        models.add("headless", tmp_path / "headless")
    with pytest.raises(UserError, match="there already"):
        models.add("first", tmp_path / "headless")
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        models.add("nothing", tmp_path)
    with pytest.raises(UserError, match="choose one"), models.using("nothing"):
        pass
    assert models.names == ["first", BASE]
    torch.testing.assert_close(answer(models, "first"), before, rtol=0, atol=0)


def test_a_network_without_adapters_stands_alone() -> None:
    assert Models(base().eval(), Asks, "trained").names == ["trained"]  # type: ignore[arg-type]
