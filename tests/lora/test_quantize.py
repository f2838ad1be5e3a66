"""Adapters over a base in 8 or 4 bits."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from eomt.errors import UserError
from eomt.lora import LoRAConfig, apply_lora, get_lora_stats, load_adapter, merge_lora_weights, save_adapter
from eomt.lora.layers import LoRALinear, disable_adapters, remove_adapters
from eomt.lora.packed_weight import packed_layers, quantization_line
from eomt.lora.packing import KINDS, Quantization
from eomt.models import memory
from eomt.models.parts.freezing import freeze_all_but
from eomt.tasks import (
    ImageClassification,
    MaskedAutoencoding,
    MorphDetection,
    PromptedSegmentation,
    SemanticSegmentation,
    VisualQuestionAnswering,
)
from eomt.tasks.base import AdaptationTask
from eomt.verification.adapters import check_adapters, merged_copy, quantized_difference
from tests import tiny_classification, tiny_morph, tiny_sam2, tiny_vqa
from tests.lora.adapters import adapted, answer, assert_same, base, step
from tests.tiny import make_eomt, make_image

kinds = pytest.mark.parametrize("kind", KINDS)
TARGETS: dict[str, dict[str, Any]] = {
    "layers": {"target_modules": ["attention", "mlp"], "trainable_modules": ["q", "class_head"]},
    "slices": {"target_modules": ["query", "value"], "rank": 4},
    "head": {"target_modules": ["mask_head"], "use_rslora": True},
}
targets = pytest.mark.parametrize("arguments", TARGETS.values(), ids=TARGETS.keys())


def rounded(kind: Quantization, **arguments: Any) -> nn.Module:
    """The same adapters over a plain base whose weights are those that the bytes stand for."""
    quantized, model = adapted(quantize=kind, **arguments), adapted(**arguments)
    for path, layer in packed_layers(quantized).items():
        model.get_submodule(path).get_parameter("weight").data.copy_(layer.weight)
    return model


@kinds
@targets
def test_answers_and_gradients_are_those_over_the_rounded_weights(kind: Quantization, arguments: dict) -> None:
    model, expected = (
        adapted(quantize=kind, lora_dropout=0.0, **arguments),
        rounded(kind, lora_dropout=0.0, **arguments),
    )
    assert_same(answer(model), answer(expected))
    assert (answer(model) - answer(adapted(**arguments))).abs().max() > 1e-4
    with disable_adapters(model), disable_adapters(expected):
        assert_same(answer(model), answer(expected))
    step(model, 2)
    step(expected, 2)
    trained = {name: value for name, value in expected.named_parameters() if value.requires_grad}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(trained)
    for name, value in trained.items():
        assert_same(model.get_parameter(name), value, 1e-8)


def test_frozen_linear_layers_of_blocks_and_adapted_ones_are_quantized_and_nothing_else() -> None:
    model = adapted(quantize="nf4", target_modules=["attention", "mask_head"], trainable_modules=["class_head", "fc2"])
    packed = set(packed_layers(model))
    blocks = [f"encoder.backbone.blocks.{index}." for index in range(6)]
    assert {path for path in packed if "blocks" in path} == {
        f"{block}{layer}" for block in blocks for layer in ("attn.qkv", "attn.proj", "mlp.fc1")
    }
    assert {path for path in packed if "blocks" not in path} == {f"mask_head.{index}" for index in (0, 2, 4)}
    line = quantization_line(model)
    # values of 8 bytes here; 4 bits each, and 4 bytes for each 64
    count = sum(layer.packing.numel for layer in packed_layers(model).values())
    assert line == (
        f"Quantized: nf4, {len(packed)} frozen linear layers, {8 * count / 1e6:,.1f} MB before and "
        f"{count * (0.5 + 4 / 64) / 1e6:,.1f} MB now"
    )
    plain = adapted(target_modules=["attention", "mask_head"], trainable_modules=["class_head", "fc2"])
    assert get_lora_stats(model) == get_lora_stats(plain)


def content(file: Path) -> Any:
    """What a file says, whatever the order in which safetensors writes its metadata."""
    if file.suffix != ".safetensors":
        return file.read_text()
    with safe_open(file, "pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name).tolist() for name in opened.keys()}  # noqa: SIM118


@kinds
@targets
def test_its_adapter_file_is_that_over_the_plain_base(kind: Quantization, arguments: dict, tmp_path: Path) -> None:
    save_adapter(adapted(quantize=kind, **arguments), tmp_path / "quantized")
    save_adapter(adapted(**arguments), tmp_path / "plain")
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file())
    assert any(file.name == "adapter_model.safetensors" for file in files)
    for file in files:
        assert content(tmp_path / "quantized" / file) == content(tmp_path / "plain" / file)
    # it fills both
    assert_same(answer(load_adapter(base(), tmp_path / "quantized")), answer(adapted(**arguments)))
    fresh = apply_lora(base(), LoRAConfig(freeze_base_model=True, quantize=kind, **arguments)).eval()
    assert_same(answer(load_adapter(fresh, tmp_path / "plain")), answer(adapted(quantize=kind, **arguments)))


@kinds
@targets
def test_it_is_merged_into_the_weights_from_before(kind: Quantization, arguments: dict) -> None:
    model = adapted(quantize=kind, **arguments)
    expected = merge_lora_weights(adapted(**arguments)).state_dict()
    merged, _, difference = merged_copy(model, make_image(), lambda network, _: answer(network))
    assert difference <= 1e-4
    apart = quantized_difference(model, merged, make_image(), lambda network, _: answer(network))
    assert apart is not None
    assert apart > 1e-4
    # the network itself is as it was
    assert_same(answer(model), answer(adapted(quantize=kind, **arguments)))
    found = merge_lora_weights(model).state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert quantized_difference(adapted(**arguments), merged, None) is None


@kinds
def test_without_its_adapters_it_is_the_base_bit_for_bit(kind: Quantization) -> None:
    model = remove_adapters(adapted(quantize=kind, target_modules=["attention"]))
    expected = base().state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@kinds
def test_a_cast_is_one_of_what_bytes_stand_for(kind: Quantization) -> None:
    model = adapted(quantize=kind, target_modules=["qkv"])
    path, layer = next(iter(packed_layers(model).items()))
    content, weight = layer.packed.clone(), layer.weight
    model.to(torch.bfloat16)
    assert torch.equal(layer.packed, content)
    assert torch.equal(layer.weight, weight.to(torch.bfloat16))
    assert answer(model).dtype == torch.bfloat16
    plain = remove_adapters(model).get_submodule(path)
    assert torch.equal(plain.get_parameter("weight"), base().get_submodule(path).get_parameter("weight").bfloat16())


def test_a_lone_layer_is_quantized_too() -> None:
    layer = nn.Sequential(nn.Linear(8, 6), nn.ReLU())
    weight = layer[0].weight.detach().clone()
    apply_lora(layer, LoRAConfig(rank=2, target_modules=["0"], freeze_base_model=True, quantize="int8"))
    assert isinstance(layer[0], LoRALinear)
    assert "int8" in repr(layer[0])
    assert list(dict(layer.named_parameters())) == ["0.bias", "0.lora_a", "0.lora_b", "0.packed"]
    assert torch.equal(merge_lora_weights(layer)[0].weight, weight)


@kinds
@pytest.mark.parametrize("setting", ["less", "least"])
def test_what_is_made_again_is_the_same(kind: Quantization, setting: memory.Memory) -> None:
    found = {}
    for name in ("floor", setting):
        model = adapted(quantize=kind, target_modules=["attention", "mlp"])
        memory.set_memory(model, name)
        step(model)
        found[name] = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    for name, gradient in found[setting].items():
        assert_same(gradient, found["floor"][name])


def morphs(config: LoRAConfig) -> AdaptationTask:
    return MorphDetection(tiny_morph.make_detector(), replace(config, trainable_modules=["classifier"]))


def pre_training(config: LoRAConfig) -> AdaptationTask:
    return MaskedAutoencoding(tiny_morph.make_mae(), config)


def segmentation(config: LoRAConfig) -> AdaptationTask:
    return SemanticSegmentation(make_eomt(), config, num_points=64)


def prompted(config: LoRAConfig) -> AdaptationTask:
    return PromptedSegmentation(tiny_sam2.make_sam2(), config)


def questions(config: LoRAConfig) -> AdaptationTask:
    return VisualQuestionAnswering(tiny_vqa.make_vqa(), replace(config, target_modules=["query", "value"]))


def classes(config: LoRAConfig) -> AdaptationTask:
    return ImageClassification(tiny_classification.make_classifier(), replace(config, trainable_modules=["classifier"]))


@pytest.mark.parametrize("make", [segmentation, prompted, morphs, pre_training, questions, classes])
def test_the_audit_passes_in_each_family_and_merging_changes_nothing(
    make: Callable[[LoRAConfig], AdaptationTask],
) -> None:
    torch.manual_seed(0)
    config = LoRAConfig(rank=2, target_modules=["attention", "mlp"], freeze_base_model=True, quantize="nf4")
    task = make(config)
    batch = task.synthetic_batch(2)
    report = task.audit(batch)
    report.require()
    assert len(report.adapters) == len(get_lora_stats(task.network)["adapted_modules"]) > 3
    check_adapters(task.network, batch, task.outputs)
    assert merged_copy(task.network, batch, task.outputs)[2] <= 1e-4


class Tower(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 6)) for _ in range(2)])


def test_a_quantized_layer_is_not_trained() -> None:
    model = apply_lora(Tower(), LoRAConfig(target_modules=["0"], rank=2, freeze_base_model=True, quantize="nf4"))
    assert not freeze_all_but(model, [])
    model = apply_lora(
        Tower(), LoRAConfig(enabled=False, trainable_modules=["blocks.0"], freeze_base_model=True, quantize="nf4")
    )
    assert list(packed_layers(model)) == ["blocks.1.0"]
    with pytest.raises(UserError, match=r"quantize: 'blocks.1.0' is quantized and cannot be trained"):
        freeze_all_but(model, ["blocks.1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "quantize: 'int4'; must be int8, nf4 or null"),
        ({"quantize": "nf4", "backend": "peft"}, "quantize: nf4 with backend: peft, .*; give native"),
        ({"quantize": "nf4", "backend": "peft", "use_dora": True}, "quantize: nf4 with backend: peft"),
        ({"quantize": "nf4", "freeze_base_model": False}, "freeze_base_model: false trains the base; set it to true"),
        ({"quantize": "nf4", "freeze_base_model": False, "enabled": False}, "freeze_base_model: false trains the base"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRAConfig(**{"freeze_base_model": True, **arguments})


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))


def with_infinity() -> nn.Module:
    model = base()
    model.encoder.backbone.blocks[1].attn.qkv.weight.data[0, 0] = float("inf")
    return model


@pytest.mark.parametrize(
    ("make", "targets", "message"),
    [
        (convolutions, ["0"], "quantize: int8, but the network has no frozen linear layer for it; set it to null"),
        (with_infinity, ["mlp"], "quantize: the weight of 'encoder.backbone.blocks.1.attn.qkv' holds .* not finite"),
        (lambda: base().to("meta"), ["mlp"], "quantize: '.*' has no values here"),
    ],
)
def test_a_network_that_it_does_not_suit_is_left_as_it_was(
    make: Callable[[], nn.Module], targets: list[str], message: str
) -> None:
    model = make()
    before = [(name, type(module)) for name, module in model.named_modules()]
    config = LoRAConfig(target_modules=targets, rank=1, freeze_base_model=True, quantize="int8")
    with pytest.raises(UserError, match=message):
        apply_lora(model, config)
    assert [(name, type(module)) for name, module in model.named_modules()] == before


def test_a_disk_without_room_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(UserError, match=r"No space left on device: no room .* TMPDIR"):
        adapted(quantize="int8", target_modules=["mlp"])


def test_a_process_that_writes_nothing_holds_no_weights_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    model = adapted(quantize="int8", target_modules=["mlp"])
    monkeypatch.undo()
    assert_same(answer(model), answer(adapted(quantize="int8", target_modules=["mlp"])))
    with pytest.raises(UserError, match="with the first process alone"):
        merge_lora_weights(copy.deepcopy(model))
