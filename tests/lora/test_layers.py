"""The algebra of the LoRA layers: W + s B A, however it is computed."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers, record_calls
from eomt.lora.dropout import keep_mask, keep_share
from eomt.lora.layers import (
    LoRAAttention,
    LoRAConv2d,
    LoRALayer,
    LoRALinear,
    count_lora_parameters,
    disable_adapters,
    freeze_lora_params,
    merge_lora_weights,
    remove_adapters,
    replace_linear_with_lora,
)


def filled(layer: LoRALayer) -> LoRALayer:
    """With a B that is not zero, in double precision and evaluation."""
    layer = layer.double().eval()
    nn.init.normal_(layer.lora_b)
    return layer


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
    {"kernel_size": (1, 3), "padding": "same", "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "bias": False},
]
LAYERS = [
    (LoRALinear(6, 5, rank=2), (3, 4, 6)),
    (LoRALinear(6, 5, rank=2, bias=False, use_rslora=True), (3, 6)),
    (LoRAAttention(6, 12, rank=2), (3, 4, 6)),
    (LoRAAttention(6, 12, rank=2, slices=("query", "value")), (3, 4, 6)),
    *[(LoRAConv2d(3, 5, rank=2, **arguments), (2, 3, 9, 8)) for arguments in CONVOLUTIONS],
]


def test_linear_is_base_plus_scaled_product() -> None:
    layer = filled(LoRALinear(6, 5, rank=2, lora_alpha=3))
    x = torch.randn(7, 6, dtype=torch.double)
    update = (3 / 2) * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ (layer.weight + update).T + layer.bias)
    assert layer.lora_a.shape == (2, 6)
    assert layer.lora_b.shape == (5, 2)
    assert layer.scaling == 1.5


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert LoRALinear(6, 5, rank=4, lora_alpha=3, use_rslora=True).scaling == 1.5


def test_attention_adapts_its_slices_one_by_one() -> None:
    layer = filled(LoRAAttention(6, 12, rank=2, lora_alpha=4, slices=("query", "value")))
    x = torch.randn(3, 6, dtype=torch.double)
    query, key, value = F.linear(x, layer.weight, layer.bias).chunk(3, -1)
    a, b = layer.lora_a, layer.lora_b
    expected = torch.cat([query + 2 * x @ a[0].T @ b[0].T, key, value + 2 * x @ a[1].T @ b[1].T], -1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_adapted_layer_starts_equal_to_the_plain_one(layer: LoRALayer, shape: tuple[int, ...]) -> None:
    layer = copy.deepcopy(layer).eval()
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), layer.plain_layer(merge=False)(x))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_merged_layer_gives_the_same_answers(layer: LoRALayer, shape: tuple[int, ...]) -> None:
    layer = filled(copy.deepcopy(layer))
    x = torch.randn(shape, dtype=torch.double)
    merged = merge_lora_weights(layer)
    assert not isinstance(merged, LoRALayer)
    torch.testing.assert_close(merged(x), layer(x))
    assert not torch.allclose(merged(x), layer.plain_layer(merge=False)(x))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_gradients_reach_both_factors_and_not_the_base(layer: LoRALayer, shape: tuple[int, ...]) -> None:
    layer = filled(copy.deepcopy(layer)).train()
    layer(torch.randn(shape, dtype=torch.double)).square().sum().backward()
    assert layer.lora_a.grad is not None
    assert layer.lora_a.grad.any()
    assert layer.lora_b.grad is not None
    assert layer.lora_b.grad.any()
    assert layer.weight.grad is None


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layers_survive_copying_and_pickling(layer: LoRALayer, shape: tuple[int, ...]) -> None:
    layer = filled(copy.deepcopy(layer))
    x = torch.randn(shape, dtype=torch.double)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), layer(x))


def test_merging_in_bf16_rounds_once() -> None:
    layer = LoRALinear(64, 64, rank=4, dtype=torch.bfloat16).eval()
    nn.init.normal_(layer.lora_b, std=1e-3)
    assert layer.lora_a.dtype == torch.float32
    exact = (layer.weight.float() + layer.delta_weight()).to(torch.bfloat16)
    merged = merge_lora_weights(layer)
    assert torch.equal(merged.weight, exact)


def test_bf16_base_runs_with_fp32_adapters() -> None:
    layer = LoRALinear(8, 8, rank=2, dtype=torch.bfloat16)
    layer(torch.randn(3, 8, dtype=torch.bfloat16)).float().sum().backward()
    assert layer.lora_b.grad is not None
    assert layer.lora_b.grad.dtype == torch.float32


def test_autocast_computes_in_its_dtype() -> None:
    layer = filled(LoRALinear(8, 8, rank=2)).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(3, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.lora_a.grad is not None
    assert layer.lora_a.grad.dtype == torch.float32


def test_grouped_convolution_is_refused() -> None:
    with pytest.raises(UserError, match="groups"):
        LoRAConv2d(4, 4, 3, groups=2)


@pytest.mark.parametrize(
    "arguments", [{"rank": 0}, {"rank": 1.5}, {"lora_dropout": 1.0}, {"lora_dropout": 0.999995}, {"lora_dropout": -0.1}]
)
def test_bad_values_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        LoRALinear(4, 4, **arguments)


@pytest.mark.parametrize("dropout", [0.0, 0.003, 0.05, 0.1, 0.5, 0.9, 0.997])
def test_dropout_drops_its_share_anew_each_time(dropout: float) -> None:
    # of 300,000 draws the share is known to 0.001
    x = torch.ones(3000, 100)
    masks = [keep_mask(x, dropout, seed) for seed in (1, 2)]
    share = keep_share(dropout)
    assert share == pytest.approx(1 - dropout, abs=0.02 * min(dropout, 1 - dropout) + 1e-5)
    assert masks[0].float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / x.numel()) ** 0.5)
    assert masks[0].float().mean().item() == pytest.approx(1 - dropout, abs=0.01)
    assert torch.equal(masks[0], keep_mask(x, dropout, 1))
    # independent of one another, and between neighbours
    assert (masks[0] * masks[1]).mean().item() == pytest.approx((1 - dropout) ** 2, abs=0.01)
    assert (masks[0][:, 1:] * masks[0][:, :-1]).mean().item() == pytest.approx((1 - dropout) ** 2, abs=0.01)


def test_dropout_keeps_the_mean_and_draws_a_new_mask_each_call() -> None:
    layer = filled(LoRALinear(100, 4, rank=1, lora_dropout=0.5)).train()
    nn.init.ones_(layer.lora_a)
    x = torch.ones(2000, 100, dtype=torch.double)
    update = layer(x) - F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(update.mean(0), 100 * layer.scaling * layer.lora_b[:, 0], rtol=0.02, atol=0)
    assert not torch.equal(layer(x), layer(x))


def test_dropout_keeps_no_copy_of_its_input() -> None:
    layer = LoRALinear(256, 256, rank=4, lora_dropout=0.1)
    x = torch.randn(64, 256, requires_grad=True)
    kept: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        layer(x)
    parameters = sum(p.numel() * 4 for p in layer.parameters())
    # beside x and the parameters only what has rank columns
    assert sum(kept.values()) <= x.numel() * 4 + parameters + 4 * 64 * 4 * 4


def test_dropout_is_off_in_evaluation() -> None:
    layer = filled(LoRALinear(8, 8, lora_dropout=0.9))
    x = torch.randn(3, 8, dtype=torch.double)
    assert torch.equal(layer(x), layer(x))


def tiny_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)))


def test_functions_of_the_guide_on_a_module() -> None:
    model = replace_linear_with_lora(tiny_model(), rank=2)
    assert list(lora_layers(model)) == ["0", "2.0"]
    assert count_lora_parameters(model) == 2 * (4 + 8) + 2 * (8 + 8)
    freeze_lora_params(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"0.lora_a", "0.lora_b", "2.0.lora_a", "2.0.lora_b"}
    assert isinstance(replace_linear_with_lora(nn.Linear(4, 4)), LoRALinear)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.TransformerEncoderLayer(8, 2, 16), "'self_attn.out_proj' cannot be adapted: the fast path"),
        (nn.MultiheadAttention(8, 2), "'out_proj' cannot be adapted: torch.nn.MultiheadAttention"),
        (nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), "'1' .*parametriz"),
        (nn.utils.spectral_norm(nn.Linear(4, 4)), "the layer cannot be adapted.* hooks"),
        (nn.Sequential(*[nn.Linear(4, 4)] * 2), "'0' .*shares its weight with '1.weight'"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_nothing_changed(module: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace_linear_with_lora(module)
    assert not lora_layers(module)


def test_plain_state_dict_loads_with_only_the_adapters_missing() -> None:
    plain = tiny_model()
    adapted = replace_linear_with_lora(copy.deepcopy(plain))
    missing, unexpected = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert all(".lora_" in name for name in missing)
    assert not unexpected


def test_disabling_and_removing_give_the_base_back() -> None:
    plain, x = tiny_model(), torch.randn(3, 4)
    adapted = replace_linear_with_lora(copy.deepcopy(plain))
    for layer in lora_layers(adapted).values():
        nn.init.normal_(layer.lora_b)
    adapted.eval()
    expected = plain(x)
    assert not torch.allclose(adapted(x), expected)
    with disable_adapters(adapted):
        torch.testing.assert_close(adapted(x), expected)
    assert not torch.allclose(adapted(x), expected)
    removed = remove_adapters(adapted)
    assert torch.equal(removed(x), expected)


def test_merging_twice_is_an_error() -> None:
    model = merge_lora_weights(replace_linear_with_lora(tiny_model()))
    with pytest.raises(UserError, match="no LoRA adapters"):
        merge_lora_weights(model)


def test_calls_are_recorded_inside_forward() -> None:
    model = replace_linear_with_lora(tiny_model())
    with record_calls() as called:
        model[0](torch.randn(2, 4))
    assert called == {model[0]}
    model[2](torch.randn(2, 8))
    assert called == {model[0]}
