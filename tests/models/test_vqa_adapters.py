"""Adapters of the question answering network: the guide's counts, freezing that spares them, folders for PEFT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import adapter_parameters, lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import replace_linear_with_lora
from eomt.lora.summary import get_lora_stats, lora_summary
from eomt.lora.trainable import check_trainable, expected_trainable
from eomt.models.parts.vision_tower import make_vision_tower
from eomt.models.vqa import DeterministicVQA
from eomt.verification.audit import AuditReport, random_base_faults
from tests.documents import ROOT
from tests.tiny_vqa import BART, SIDE, TYPES, VISION, enlarge_weights, make_questions, make_vqa

both = pytest.mark.parametrize("backend", ["native", "peft"])
heads = pytest.mark.parametrize("head", ["generative", "classification"])
LABELS = torch.tensor([[0, 12, 2, -100], [0, 13, 14, 2], [0, 17, 2, -100]])
BASE_SIZED = {"model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
TIED = [f"text_model.{name}" for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder", "lm_head")]


def lora(backend: str = "native", **fields: Any) -> LoRAConfig:
    if backend == "peft":
        pytest.importorskip("peft")
    settings: dict[str, Any] = {
        "target_modules": ["query", "key", "value"], "exclude_modules": ["text_model", "fusion"],
        "freeze_base_model": True, "backend": backend,
    }  # fmt: skip
    return LoRAConfig(**(settings | fields))


def trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def inside(network: nn.Module, *paths: str) -> set[str]:
    """Names of the parameters of whole modules."""
    return {
        name
        for name, _ in network.named_parameters()
        if any(name == path or name.startswith(path + ".") for path in paths)
    }


def learned(network: nn.Module) -> None:
    """Adapters as training leaves them."""
    torch.manual_seed(5)
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_b, std=0.5)


def loss(network: DeterministicVQA) -> Tensor:
    output = network(**make_questions(), labels=LABELS)
    return output.logits.square().sum() + (output.type_logits.square().sum() if output.type_logits is not None else 0)


@both
@pytest.mark.parametrize(
    ("targets", "count", "layers"), [(["query", "key", "value"], 442_368, 36), (["query"], 147_456, 12)]
)
def test_counts_of_the_guide_on_the_base_model(backend: str, targets: list[str], count: int, layers: int) -> None:
    config = lora(backend, target_modules=targets)
    with torch.device("meta"):
        network = DeterministicVQA(BASE_SIZED, BART, pretrained=False, lora_config=config)
    stats = get_lora_stats(network)
    assert stats["lora_parameters"] == count
    assert len(stats["adapted_modules"]) == layers
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    assert set(stats["adapted_modules"]) == {
        f"vision_encoder.model.encoder.layer.{index}.attention.{names[target]}"
        for index in range(12)
        for target in targets
    }
    network.freeze_pretrained(unfreeze_decoder=False)
    vision = [name for name in trained(network) if name.startswith("vision_encoder.")]
    assert sum(network.get_parameter(name).numel() for name in vision) == count


@heads
@both
def test_adapters_stay_trained_when_the_models_are_frozen(head: str, backend: str) -> None:
    network = make_vqa(answer_head=head, question_types=TYPES, lora_config=lora(backend))
    network.freeze_pretrained(unfreeze_encoder_layers=0, unfreeze_decoder=True)
    adapters = set(adapter_parameters(network))
    assert len(adapters) == 12
    parts = network.new_modules + (tuple(TIED) if head == "generative" else ())
    assert trained(network) == adapters | inside(network, *parts)
    assert "classifier" in parts or head == "generative"
    check_trainable(network)
    assert trained(network) == expected_trainable(network)
    network.freeze_pretrained(unfreeze_encoder_layers=0, unfreeze_decoder=False)
    assert trained(network) == adapters | inside(network, *network.new_modules)
    network.freeze_pretrained(unfreeze_encoder_layers=1, unfreeze_decoder=False)
    block = "vision_encoder.model.encoder.layer.1"
    beneath = {name for name in inside(network, block) if "_proj." in name and "o_proj" not in name} - adapters
    assert len(beneath) == 6
    assert trained(network) == (adapters | inside(network, block, *network.new_modules)) - beneath
    check_trainable(network)
    assert adaptation(network).adapters.keys() == lora_layers(network).keys()  # type: ignore[union-attr]
    with pytest.raises(UserError, match="unfreeze_encoder_layers: 3; must be 0 to 2"):
        network.freeze_pretrained(unfreeze_encoder_layers=3)


@both
def test_a_weight_under_an_adapter_of_the_decoder_stays_frozen(backend: str) -> None:
    config = lora(backend, exclude_modules=["fusion", "vision_encoder"], freeze_base_model=False)
    network = make_vqa(lora_config=config)
    network.freeze_pretrained()
    adapted = lora_layers(network)
    assert any("decoder" in path for path in adapted)
    assert any("encoder.layers" in path for path in adapted)
    assert set(adapter_parameters(network)) <= trained(network)
    for layer in adapted.values():
        assert not layer.get_parameter(layer.base_weight_name).requires_grad
    for name in ("self_attn.out_proj.weight", "fc1.bias", "encoder_attn_layer_norm.weight"):
        assert f"text_model.model.decoder.layers.0.{name}" in trained(network)
    assert "text_model.model.shared.weight" in trained(network)
    assert not [name for name in trained(network) if "encoder.layers.0.fc1" in name]
    check_trainable(network)


def test_without_adapters_freezing_is_a_linear_probe_of_the_named_modules() -> None:
    network, probe = make_vqa(question_types=TYPES), make_vqa(question_types=TYPES)
    network.freeze_pretrained(unfreeze_encoder_layers=1)
    modules = ["vision_encoder.model.encoder.layer.1", *TIED]
    apply_lora(probe, LoRAConfig(enabled=False, freeze_base_model=True, trainable_modules=modules))
    assert trained(network) == trained(probe)
    assert "fusion.norm_vision.weight" in trained(network)
    assert get_lora_stats(network) == get_lora_stats(probe)
    check_trainable(network)
    network.freeze_pretrained(unfreeze_decoder=False)
    assert trained(network) == inside(network, "fusion", "vision_projection", "type_head")
    check_trainable(network)


def test_it_prints_what_is_trained_and_every_name_of_a_tied_weight(capsys: pytest.CaptureFixture) -> None:
    network = make_vqa(lora_config=lora())
    network.freeze_pretrained()
    printed = capsys.readouterr().out
    stats = get_lora_stats(network)
    assert f"[LoRA] Manual injection: {stats['lora_parameters']:,} trainable params across 2 layers" in printed
    share = f"{stats['trainable_percent']:.2f}%"
    assert (
        f"[LoRA] Trainable: {stats['trainable_parameters']:,} ({share}) | Total: {stats['total_parameters']:,}"
        in printed
    )
    line = next(line for line in printed.splitlines() if "one tensor" in line)
    for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        assert f"text_model.{name}.weight" in line
    network.freeze_pretrained(unfreeze_decoder=False)
    assert "one tensor" not in capsys.readouterr().out


def test_adapters_that_were_not_made_by_apply_lora_on_the_network_are_not_frozen(capsys: pytest.CaptureFixture) -> None:
    peft = pytest.importorskip("peft")
    for make in (
        lambda tower: apply_lora(tower, lora(exclude_modules=[])),
        lambda tower: replace_linear_with_lora(tower, rank=2),
        lambda tower: setattr(
            tower, "model", peft.get_peft_model(tower.model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
        ),
    ):
        network = make_vqa()
        make(network.vision_encoder)
        adapters = {name for name, _ in network.named_parameters() if "lora_" in name}
        assert adapters
        capsys.readouterr()
        network.freeze_pretrained(unfreeze_encoder_layers=2, unfreeze_decoder=False)
        number = sum(network.get_parameter(name).numel() for name in adapters)
        printed = capsys.readouterr().out
        assert f"[LoRA] Adapted without a config: {number:,} trainable params across 2 layers\n" in printed
        assert "full fine-tuning" not in printed
        network.vision_encoder.requires_grad_(False)
        assert lora_summary(network)[0].startswith("[LoRA] Adapted without a config: 0 trainable params")
        network.freeze_pretrained(unfreeze_encoder_layers=2, unfreeze_decoder=False)
        assert adapters <= trained(network)
        assert not [name for name in trained(network) if "q_proj.weight" in name or "q_proj.base_layer" in name]
        assert [name for name in trained(network) if "norm1.weight" in name]
        loss(network).backward()


@heads
@both
def test_a_gradient_reaches_every_adapter(head: str, backend: str) -> None:
    network = make_vqa(answer_head=head, lora_config=lora(backend))
    network.freeze_pretrained()
    enlarge_weights(network)
    loss(network).backward()
    for name in adapter_parameters(network):
        gradient = network.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-8, name
    # as it starts, B is zero: then B alone learns
    fresh = make_vqa(answer_head=head, lora_config=lora(backend))
    loss(fresh).backward()
    for layer in lora_layers(fresh).values():
        assert layer.lora_b.grad is not None
        assert layer.lora_b.grad.abs().max() > 0


def test_towers_of_which_nothing_is_trained_are_never_in_training_mode() -> None:
    network = make_vqa(lora_config=lora())
    assert network.vision_encoder.training
    assert not network.text_model.model.encoder.training
    assert not network.text_model.model.decoder.training
    network = make_vqa(lora_config=LoRAConfig(enabled=False, freeze_base_model=True))
    network.eval()
    assert not any(module.training for module in network.modules())
    network.train()
    assert not any(module.training for module in network.vision_encoder.modules())
    assert all(module.training for module in network.fusion.modules())
    network.freeze_pretrained(unfreeze_encoder_layers=1)
    assert network.text_model.model.decoder.training
    assert network.vision_encoder.training
    # frozen without a config
    plain = make_vqa()
    assert all(module.training for module in plain.modules())
    plain.vision_encoder.requires_grad_(False)
    assert not plain.train().vision_encoder.training
    with torch.no_grad():
        tokens = plain.encode_images(make_questions()["images"])
        assert torch.equal(tokens, plain.encode_images(make_questions()["images"]))


def test_a_frozen_model_that_was_read_satisfies_the_audit_and_a_random_one_does_not(tmp_path: Path) -> None:
    random = make_vqa(lora_config=lora())
    with pytest.raises(UserError, match="is frozen but was never loaded"):
        AuditReport(tuple(random_base_faults(random))).require()
    folder = tmp_path / "network"
    folder.mkdir()
    make_vqa().write(folder)
    AuditReport(tuple(random_base_faults(DeterministicVQA(pretrained=str(folder), lora_config=lora())))).require()
    make_vqa().text_model.save_pretrained(tmp_path / "text")
    make_vision_tower(VISION, False, (SIDE, SIDE)).model.save_pretrained(tmp_path / "vision")
    # a mask token is written by no tower, and missed by none
    folders = {"vision_model": str(tmp_path / "vision"), "text_model": str(tmp_path / "text")}
    network = make_vqa(**folders, pretrained=True, lora_config=lora())
    AuditReport(tuple(random_base_faults(network))).require()
    network.freeze_pretrained()
    AuditReport(tuple(random_base_faults(network))).require()


@heads
@both
def test_an_adapter_folder_gives_the_same_answers_here_and_in_peft(head: str, backend: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def base() -> DeterministicVQA:
        torch.manual_seed(0)
        network = make_vqa(answer_head=head, question_types=TYPES)
        enlarge_weights(network)
        return network.eval()

    network = apply_lora(base(), lora(backend))
    network.freeze_pretrained()
    learned(network)
    with torch.no_grad():
        for name in trained(network) - set(adapter_parameters(network)):
            network.get_parameter(name).add_(0.01)
    network.eval()
    folder = save_adapter(network, tmp_path / "adapter")
    questions = make_questions() | {"labels": LABELS}
    with torch.no_grad():
        expected = network(**questions)
        assert not torch.allclose(base()(**questions).logits, expected.logits, atol=1e-3)
        loaded = load_adapter(base(), folder).eval()
        torch.testing.assert_close(loaded(**questions).logits, expected.logits, rtol=1e-4, atol=1e-5)
        full = trained(network) - set(adapter_parameters(network))
        assert trained(loaded) - set(adapter_parameters(loaded)) == full
        assert loaded.answers_hash.equal(network.answers_hash)
        whole = peft.PeftModel.from_pretrained(base(), folder).eval()
        found = whole.base_model.model(**questions)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.type_logits, expected.type_logits, rtol=1e-4, atol=1e-5)
        # transformers' own vision model with the folder inside
        plain = base().vision_encoder
        plain.model = peft.PeftModel.from_pretrained(plain.model, folder / "vision_encoder.model").eval()
        images = questions["images"]
        torch.testing.assert_close(plain(images), network.encode_images(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("decoder_in_full", "sizes"), [(False, ("127 MB", "382 MB")), (True, ("1.10 GB", "3.29 GB"))])
def test_an_adapter_of_the_shipped_config_is_as_large_as_said(decoder_in_full: bool, sizes: tuple[str, str]) -> None:
    """15.30: the whole decoder and the embeddings were trained, 1.1 GB an adapter."""
    config = yaml.safe_load((ROOT / "configs" / "vqa_lora.yaml").read_text())["model"]["init_args"]["lora_config"]
    settings = LoRAConfig(**config["init_args"])
    if decoder_in_full:
        decoder = ["text_model.model.decoder", "shared", "embed_tokens", "lm_head"]
        settings = replace(settings, exclude_modules=["text_model", "fusion"], trainable_modules=decoder)
    width = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 14}
    # BARTpho's sizes
    bart = {"vocab_size": 40030, "d_model": 1024, "max_position_embeddings": 1024}
    for part in ("encoder", "decoder"):
        bart |= {f"{part}_layers": 12, f"{part}_attention_heads": 16, f"{part}_ffn_dim": 4096}
    with torch.device("meta"):
        network = make_vqa(vision_model=VISION | width, text_model=BART | bart | {"model_type": "mbart"})
    trained = get_lora_stats(apply_lora(network, settings))["trainable_parameters"]
    # in float32; a checkpoint has AdamW's two moments beside it
    found = [f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB" for size in (4 * trained, 12 * trained)]
    assert found == list(sizes)
    page = (ROOT / "docs" / "questions.md").read_text()
    assert all(size in page for size in sizes)
