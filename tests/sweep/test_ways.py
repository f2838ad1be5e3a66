"""Which ways of training a network allows."""

from typing import Any

import pytest

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.packed_weight import packed_layers
from eomt.models.network import Network
from eomt.sweep.ways import chosen, last_blocks, outside_of_backbone, rate_text, round_rate, ways_of
from tests.tiny import make_eomt
from tests.tiny_classification import make_classifier

GIVEN = {"init_args": {"rank": 4, "target_modules": ["attention"], "freeze_base_model": True, "lora_alpha": 8}}


def config_of(network: Network, name: str, given: dict[str, Any] | None = GIVEN) -> LoRAConfig | None:
    """The settings of a way."""
    way = next(way for way in ways_of(network, given, 1e-3, True).ways if way.name == name)
    return None if way.lora_config is None else LoRAConfig(**way.lora_config["init_args"])


@pytest.mark.parametrize("name", ["heads", "last", "attention", "attention_mlp", "full"])
def test_each_way_trains_what_it_says(name: str) -> None:
    network = make_eomt(3)
    apply_lora(network, config_of(network, name))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    blocks = {name.split("blocks.")[1].split(".")[0] for name in trained - adapters if "blocks." in name}
    assert bool(adapters) == name.startswith("attention")
    assert any(".mlp." in name for name in adapters) == (name == "attention_mlp")
    # of six blocks the last two
    assert blocks == {"last": {"4", "5"}, "full": set("012345")}.get(name, set())
    assert ("class_head.weight" in trained) == (not adapters)


def test_adapters_of_other_ways_have_the_rank_of_the_configuration() -> None:
    config = config_of(make_eomt(3), "attention_mlp")
    assert config is not None
    assert (config.rank, config.lora_alpha, config.freeze_base_model) == (4, 8, True)


@pytest.mark.parametrize("name", ["heads", "last", "attention", "attention_mlp"])
def test_a_base_that_is_quantized_is_so_in_each_way_that_freezes_it(name: str) -> None:
    given = {"init_args": {**GIVEN["init_args"], "quantize": "nf4"}}
    network = make_eomt(3)
    apply_lora(network, config_of(network, name, given))
    blocks = {path.split("blocks.")[1].split(".")[0] for path in packed_layers(network)}
    # what is trained in full is not
    assert blocks == set("0123" if name == "last" else "012345")
    full = next(way for way in ways_of(make_eomt(3), given, 1e-3, True).ways if way.name == "full")
    assert full.title == "full fine-tuning (no nf4)"


def test_the_configuration_that_is_a_way_takes_its_place_and_else_has_one_of_its_own() -> None:
    same = ways_of(make_eomt(3), GIVEN, 5e-4, True).ways
    assert [way.name for way in same] == ["attention", "heads", "attention_mlp", "last", "full"]
    assert same[0].rates == (1.6e-4, 5e-4, 1.6e-3)
    assert same[0].is_given
    other = {"init_args": {"target_modules": ["mask_head"], "freeze_base_model": True}}
    names = [way.name for way in ways_of(make_eomt(3), other, 1e-3, True).ways]
    assert names == ["given", "heads", "attention", "attention_mlp", "last", "full"]
    full = ways_of(make_eomt(3), None, 1e-4, True).ways
    assert [way.name for way in full] == ["full", "heads", "attention", "attention_mlp", "last"]


def test_a_random_base_has_one_way() -> None:
    found = ways_of(make_eomt(3), None, 1e-4, False)
    assert [way.name for way in found.ways] == ["full"]
    assert "the base is random" in found.left_out[0]


def test_what_is_outside_of_a_backbone() -> None:
    assert outside_of_backbone(make_eomt(3)) == ["q", "class_head", "mask_head", "upscale"]
    assert outside_of_backbone(make_classifier()) == ["classifier"]
    assert last_blocks(make_classifier()) == ["encoder.backbone.blocks.4", "encoder.backbone.blocks.5"]


def test_a_way_that_does_not_exist_is_refused() -> None:
    ways = ways_of(make_eomt(3), GIVEN, 1e-3, True).ways
    assert [way.name for way in chosen(ways, ["full", "given"])] == ["attention", "full"]
    with pytest.raises(UserError, match="'ful' is no way of training this network; did you mean full"):
        chosen(ways, ["ful"])


@pytest.mark.parametrize(
    ("rate", "higher", "text"), [(1e-3, 3e-3, "1e-3"), (3e-4, 1e-3, "3e-4"), (5e-4, 1.6e-3, "5e-4")]
)
def test_rates_go_up_by_half_a_power_of_ten(rate: float, higher: float, text: str) -> None:
    assert round_rate(rate * 10**0.5) == higher
    assert rate_text(rate) == text
