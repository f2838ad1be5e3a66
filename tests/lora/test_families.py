"""The words for query, attention, mlp, ... reach what each library calls so."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import get_lora_stats
from eomt.lora.targets import resolve_targets

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BART = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in [("layers", 2), ("ffn_dim", 32)]}
MAE = {f"decoder_{name}": value for name, value in SMALL.items()}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
VOCABULARY = {"vocab_size": 20, "pad_token_id": 0}

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "Bart": lambda: transformers.BartModel(transformers.BartConfig(d_model=16, **BART, **HEADS, **VOCABULARY)),
    "Bert": lambda: transformers.BertModel(
        transformers.BertConfig(is_decoder=True, add_cross_attention=True, **SMALL, **VOCABULARY)
    ),
    "T5": lambda: transformers.T5Model(
        transformers.T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, **VOCABULARY)
    ),
    "ViTMAE": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **MAE)),
    "Dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    ),
    "Sam2": lambda: transformers.Sam2Model(transformers.Sam2Config()),
}
# Ends of paths, written from what the libraries print of their modules.
ATTENTION = r"(q|k|v|o|(q|k|v|o|out)_proj|query|key|value|attention\.output\.dense)"
MLP = r"(fc1|fc2|wi|wo|mlp\.proj_in|mlp\.proj_out|\d\.(intermediate|output)\.dense)"


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return FAMILIES[name]()


def linear_layers(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(("name", "count"), [("Bart", 24), ("Bert", 16), ("T5", 24), ("ViTMAE", 16), ("Dinov2", 8)])
def test_attention_reaches_every_projection(name: str, count: int) -> None:
    model = build(name)
    square = [path for path in linear_layers(model) if re.search(rf"(\.|cross){ATTENTION}$", path)]
    assert len(square) == count
    assert list(resolve_targets(model, ["attention"])[0]) == square


def test_attention_reaches_every_projection_of_sam2() -> None:
    model = build("Sam2")
    found = set(resolve_targets(model, ["attention"])[0])
    decoder = {path for path in linear_layers(model) if path.startswith("mask_decoder.transformer")}
    assert {path for path in found if path.startswith("mask_decoder")} == {p for p in decoder if ".mlp." not in p}
    assert sum(path.startswith("mask_decoder") for path in found) == 28
    encoder = {path for path in linear_layers(model) if re.search(r"\.attn\.(qkv|proj)$", path)}
    assert found == encoder | {path for path in decoder if ".mlp." not in path}


@pytest.mark.parametrize(
    ("name", "count"), [("Bart", 8), ("Bert", 4), ("T5", 8), ("ViTMAE", 8), ("Dinov2", 4), ("Sam2", 2 * 12 + 4)]
)
def test_mlp_reaches_every_layer_of_it(name: str, count: int) -> None:
    model = build(name)
    expected = [path for path in linear_layers(model) if re.search(rf"\.{MLP}$", path)]
    assert len(expected) == count
    assert list(resolve_targets(model, ["mlp"])[0]) == expected


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("Bart", "q_proj k_proj v_proj"),
        ("Bert", "query key value"),
        ("T5", "q k v"),
        ("ViTMAE", "q_proj k_proj v_proj"),
    ],
)
def test_query_key_and_value_are_told_apart(name: str, ends: str) -> None:
    model = build(name)
    for word, end in zip(("query", "key", "value"), ends.split(), strict=True):
        expected = [path for path in linear_layers(model) if path.rpartition(".")[2] == end]
        assert expected
        assert list(resolve_targets(model, [word])[0]) == expected


HIERA_LARGE = {
    "hidden_size": 144,
    "num_attention_heads": 2,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "global_attention_blocks": [23, 33, 43],
    "window_positional_embedding_background_size": [7, 7],
    "window_size_per_stage": [8, 4, 16, 8],
}
ENCODER = r"re:vision_encoder\..*\.attn\.(qkv|proj)"
DECODER = "mask_decoder.transformer"


@pytest.mark.parametrize(
    ("targets", "rank", "expected"),
    [
        ([ENCODER], 4, 652_608),
        ([ENCODER], 8, 1_305_216),
        ([ENCODER], 16, 2_610_432),
        ([DECODER], 4, 83_968),
        ([DECODER], 8, 167_936),
        ([DECODER], 16, 335_872),
        ([ENCODER, DECODER], 8, 1_473_152),
        (["attention", r"re:mask_decoder\.transformer\..*mlp.*"], 8, 1_473_152),
    ],
)
def test_counts_of_the_table_on_sam2_hiera_large(targets: list[str], rank: int, expected: int) -> None:
    backbone = transformers.Sam2HieraDetConfig(**HIERA_LARGE)
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[1152, 576, 288, 144])
    with torch.device("meta"):
        model = transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))
    apply_lora(model, LoRAConfig(rank=rank, target_modules=targets, freeze_base_model=True))
    assert get_lora_stats(model)["lora_parameters"] == expected
