"""What LoRA cannot adapt is left alone or refused, by name and with the reason."""

from collections.abc import Callable

import pytest
import timm
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from timm.models.maxxvit import AttentionCl
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import lora_summary
from eomt.lora.targets import resolve_targets


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    """Differs in nothing but its name."""


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


def hooked(layer: nn.Module, register: str) -> nn.Module:
    getattr(layer, register)(lambda module, *values: 2 * values[-1][0] if len(values) == 1 else 2 * values[-1])
    return layer


def with_own_forward() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight)  # type: ignore[method-assign]
    return layer


UNSUITABLE = {
    "own forward": (lambda: Doubling(4, 4), "Doubling has a forward of its own"),
    "forward of the instance": (with_own_forward, "Linear has a forward of its own"),
    "forward hook": (lambda: hooked(nn.Linear(4, 4), "register_forward_hook"), "forward hooks"),
    "forward pre-hook": (lambda: hooked(nn.Linear(4, 4), "register_forward_pre_hook"), "forward hooks"),
    "parametrization": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "parametrization"),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), "forward hooks"),
    "standardised convolution": (lambda: StdConv2d(4, 4, 1), "timm.layers.std_conv.StdConv2d has a forward"),
    "scaled convolution": (lambda: ScaledStdConv2d(4, 4, 1), "ScaledStdConv2d has a forward"),
    "same padding": (lambda: Conv2dSame(4, 4, 3), "Conv2dSame has a forward"),
    "convolution underneath": (lambda: OwnConvolution(4, 4, 1), "OwnConvolution has a forward"),
}


@pytest.mark.parametrize(("make", "reason"), UNSUITABLE.values(), ids=UNSUITABLE.keys())
def test_a_layer_that_computes_more_is_left_alone_in_a_container(make: Callable[[], nn.Module], reason: str) -> None:
    model = nn.ModuleDict({"body": nn.ModuleDict({"odd": make(), "plain": nn.Linear(4, 4)})})
    odd = model["body"]["odd"]  # type: ignore[index]
    x = torch.randn(2, 4, 5, 4)
    expected = odd.eval()(x)
    apply_lora(model, LoRAConfig(rank=2, target_modules=["body"]))
    assert model["body"]["odd"] is odd  # type: ignore[index]
    torch.testing.assert_close(odd(x), expected)
    assert any("body.odd" in line and reason in line for line in lora_summary(model))
    with pytest.raises(UserError, match=rf"'odd' matches only 'body.odd': .*{reason}"):
        resolve_targets(nn.ModuleDict({"body": nn.ModuleDict({"odd": make()})}), ["odd"])


def test_a_subclass_that_computes_the_same_is_adapted() -> None:
    assert list(resolve_targets(nn.ModuleDict({"layer": Renamed(4, 4)}), ["layer"])[0]) == ["layer"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.lm_head.weight = self.embed.weight
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.free = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("target", "other"),
    [("lm_head", "embed.weight"), ("first", "second.weight"), ("second", "first.weight"), ("all-linear", "")],
)
def test_shared_weights_are_refused_by_name(target: str, other: str) -> None:
    with pytest.raises(UserError, match=rf"cannot be adapted: it shares its weight with '{other}"):
        resolve_targets(Shared(), [target])


def test_shared_weights_can_be_excluded() -> None:
    found, _ = resolve_targets(Shared(), ["all-linear"], exclude=["lm_head", "first", "second"])
    assert list(found) == ["free"]


def fused(width: int = 12, layer: nn.Module | None = None, **attributes: object) -> nn.Module:
    attention = nn.Module()
    attention.qkv = layer or nn.Linear(4, width)
    for name, value in attributes.items():
        setattr(attention, name, value)
    return nn.ModuleDict({"attn": attention})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (fused(13), "13 outputs are not query, key and value of one width"),
        (fused(12, num_heads=2, head_dim=3), "12 outputs are not query"),
        (fused(12, head_first=True), "head by head"),
        (fused(12, num_key_value_groups=2), "grouped-query"),
        (fused(layer=nn.Conv2d(4, 12, 1)), "Conv2d is no Linear"),
    ],
)
def test_slices_are_refused_where_the_thirds_are_something_else(model: nn.Module, reason: str) -> None:
    with pytest.raises(UserError, match=rf"'query' is no slice of 'attn.qkv': .*{reason}.*'qkv'"):
        resolve_targets(model, ["query"])
    assert list(resolve_targets(model, ["qkv"])[0]) == ["attn.qkv"]


@pytest.mark.parametrize("attributes", [{}, {"num_heads": 2, "head_dim": 2}, {"head_first": False}])
def test_slices_of_equal_thirds_are_taken(attributes: dict) -> None:
    assert resolve_targets(fused(12, **attributes), ["query"])[0] == {"attn.qkv": ("query",)}


@pytest.mark.parametrize("name", ["coatnet_0_rw_224", "tiny_vit_5m_224", "efficientformer_l1"])
def test_slices_are_refused_in_timm_s_head_by_head_classes(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(UserError, match=r"timm\.(models|layers)\..* holds query, key and value head by head"):
        resolve_targets(model, ["value"])


def test_slices_are_refused_in_timm_s_channels_last_attention_with_heads_first() -> None:
    attention = nn.ModuleDict({"attn": AttentionCl(64, dim_head=32)})
    with pytest.raises(UserError, match=r"timm\.models\.maxxvit\.AttentionCl holds query, key and value head by head"):
        resolve_targets(attention, ["query"])


def test_slices_are_refused_in_phi3() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Phi3Config(
        hidden_size=24,
        num_attention_heads=6,
        num_key_value_heads=3,
        num_hidden_layers=1,
        intermediate_size=32,
        vocab_size=40,
        pad_token_id=0,
    )
    with torch.device("meta"):
        model = transformers.Phi3Model(config)
    with pytest.raises(UserError, match=r"Phi3Attention has fewer keys and values than queries"):
        resolve_targets(model, ["query"])
