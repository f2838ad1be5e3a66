"""Every contract of training with adapters, over both backends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import adapter_parameters, lora_layers, record_calls
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import count_lora_parameters, disable_adapters
from eomt.lora.summary import get_lora_stats
from eomt.lora.trainable import check_trainable
from eomt.models import ViT
from tests.lora.adapters import BACKENDS, adapted, answer, assert_same, base, both, configs, step
from tests.tiny import make_image

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# -- resolution and counts -------------------------------------------------------------------------------------------


@configs
def test_both_backends_adapt_the_same_layers_with_the_same_scales(arguments: dict) -> None:
    models = [apply_lora(base(), LoRAConfig(freeze_base_model=True, backend=b, **arguments)) for b in BACKENDS]
    native, other = (adaptation(model) for model in models)
    assert native is not None
    assert other is not None
    assert list(lora_layers(models[0])) == list(lora_layers(models[1])) == list(native.adapters)
    assert native.adapters == other.adapters
    assert native.fingerprint == other.fingerprint
    assert get_lora_stats(models[0]) == get_lora_stats(models[1])
    for path, layer in lora_layers(models[1]).items():
        assert layer.scaling["default"] == pytest.approx(lora_layers(models[0])[path].scaling)
        assert layer.r["default"] == native.adapters[path].rank


def dinov2() -> nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config())


def mae() -> nn.Module:
    return transformers.ViTMAEModel(transformers.ViTMAEConfig())


def timm_vit() -> nn.Module:
    return ViT("vit_base_patch14_dinov2", pretrained=False)


def hiera_large() -> nn.Module:
    from tests.lora.test_families import HIERA_LARGE

    backbone = transformers.Sam2HieraDetConfig(**HIERA_LARGE)
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[1152, 576, 288, 144])
    return transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))


QKV = ["query", "key", "value"]
SAM2_ENCODER, SAM2_DECODER = r"re:vision_encoder\..*\.attn\.(qkv|proj)", "mask_decoder.transformer"


@both
@pytest.mark.parametrize(
    ("make", "targets", "counts"),
    [
        (dinov2, QKV, {4: 221_184, 8: 442_368, 16: 884_736}),
        (dinov2, ["query"], {8: 147_456}),
        (mae, QKV, {4: 221_184, 8: 442_368, 16: 884_736}),
        (timm_vit, ["qkv"], {4: 147_456, 8: 294_912, 16: 589_824}),
        (hiera_large, [SAM2_ENCODER], {8: 1_305_216}),
        (hiera_large, [SAM2_DECODER], {8: 167_936}),
        (hiera_large, [SAM2_ENCODER, SAM2_DECODER], {4: 736_576, 8: 1_473_152, 16: 2_946_304}),
    ],
)
def test_counts_of_the_real_architectures(backend: str, make: Any, targets: list[str], counts: dict) -> None:
    for rank, expected in counts.items():
        with torch.device("meta"):
            model = make()
        config = LoRAConfig(rank=rank, target_modules=targets, freeze_base_model=True, backend=backend)
        assert count_lora_parameters(apply_lora(model, config)) == expected
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained == expected


@pytest.mark.parametrize(("rank", "expected"), [(4, 947_392), (8, 1_894_784), (16, 3_789_568)])
def test_counts_of_slices_on_hiera_large(rank: int, expected: int) -> None:
    with torch.device("meta"):
        model = hiera_large()
    targets = [*QKV, r"re:vision_encoder\..*\.attn\.proj", SAM2_DECODER]
    config = LoRAConfig(rank=rank, target_modules=targets, freeze_base_model=True)
    assert count_lora_parameters(apply_lora(model, config)) == expected


@pytest.mark.parametrize("words", [["query"], ["key", "value"], ["attention", "value"]])
def test_slices_are_refused_under_peft(words: list[str]) -> None:
    config = LoRAConfig(target_modules=words, exclude_modules=[], backend="peft", freeze_base_model=True)
    if "attention" in words:
        # the whole layer holds its slices
        assert count_lora_parameters(apply_lora(base(), config))
    else:
        with pytest.raises(UserError, match=r"slices of '.*qkv'.*backend: native"):
            apply_lora(base(), config)


# -- training --------------------------------------------------------------------------------------------------------


@both
@configs
def test_it_starts_as_the_base_and_trains_what_the_config_says(backend: str, arguments: dict) -> None:
    model = apply_lora(base(), LoRAConfig(freeze_base_model=True, backend=backend, **arguments)).eval()
    assert_same(answer(model), answer(base()))
    check_trainable(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, steps=2)
    for name, parameter in model.named_parameters():
        # A learns from the second step on, once B is no longer zero
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@configs
def test_both_backends_have_the_same_answers_and_gradients(arguments: dict) -> None:
    results = []
    for backend in BACKENDS:
        model = adapted(backend=backend, lora_dropout=0.0, **arguments)
        found = answer(model)
        model.train()
        final = model(make_image())[-1]
        (final.mask_logits.square().mean() + final.class_logits.square().mean()).backward()
        kinds = adapter_parameters(model)
        gradients = {}
        for name, parameter in model.named_parameters():
            if name in kinds:
                path = next(path for path in lora_layers(model) if name.startswith(f"{path}."))
                gradients[f"{path}.{kinds[name]}"] = parameter.grad
            elif parameter.requires_grad:
                gradients[name] = parameter.grad
        results.append((found, gradients))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert_same(ours, theirs)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        assert_same(gradient, their_gradients[name])


@both
def test_a_base_that_is_not_frozen_is_trained_but_for_adapted_weights(backend: str) -> None:
    model = apply_lora(base(), LoRAConfig(target_modules=["attention"], backend=backend))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"{path}.{layer.base_weight_name}" for path, layer in lora_layers(model).items()}


@both
def test_adapters_are_fp32_over_a_bf16_base_and_answer_in_bf16(backend: str) -> None:
    model = base().encoder.bfloat16()
    apply_lora(model, LoRAConfig(target_modules=["attention"], freeze_base_model=True, backend=backend))
    assert {model.get_parameter(name).dtype for name in adapter_parameters(model)} == {torch.float32}
    nn.init.normal_(lora_layers(model)["backbone.blocks.0.attn.qkv"].lora_b)
    answer = model(make_image())
    assert answer.dtype == torch.bfloat16
    assert answer.isfinite().all()


@both
def test_autocast_is_near_full_precision_and_reaches_every_adapter(backend: str) -> None:
    model = adapted(target_modules=["attention"], backend=backend, lora_dropout=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        final = model(make_image())[-1]
        final.mask_logits.float().square().mean().backward()
    expected = model(make_image())[-1].mask_logits
    assert (final.mask_logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
    missing = [name for name in adapter_parameters(model) if not model.get_parameter(name).grad.any()]
    assert not missing


@both
def test_compiled_blocks_keep_their_names_and_answers(backend: str, tmp_path: Path) -> None:
    model = adapted(target_modules=["attention"], backend=backend)
    expected, names = answer(model), list(model.state_dict())
    for block in model.encoder.blocks[:2]:
        block.compile(backend="eager")
    assert_same(answer(model), expected)
    assert list(model.state_dict()) == names
    save_adapter(model, tmp_path / "adapter")
    assert_same(answer(load_adapter(base(), tmp_path / "adapter")), expected)


@both
def test_calls_are_recorded_inside_forward(backend: str) -> None:
    model = adapted(target_modules=["attention"], backend=backend)
    with record_calls() as called:
        answer(model)
    assert called == set(lora_layers(model).values())
    with record_calls() as called, disable_adapters(model):
        answer(model)
    assert not called
