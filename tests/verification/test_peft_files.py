"""The audit of files that PEFT itself wrote for models of transformers: sound ones pass, as merging changes them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from eomt.verification.stored.report import audit_files

peft = pytest.importorskip("peft")

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def llama(tied: bool = False) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(**SIZES, vocab_size=50, num_key_value_heads=2, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config)


def dinov2() -> transformers.PreTrainedModel:
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    config = transformers.Dinov2Config(**sizes, image_size=28, patch_size=14, num_labels=3)
    return transformers.Dinov2ForImageClassification(config)


def resnet() -> transformers.PreTrainedModel:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def bert() -> transformers.PreTrainedModel:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, vocab_size=50, num_labels=3))


def gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


# a model, PEFT's settings, and what is to be said of a sound file
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[str]]] = {
    "lora": (llama, {"target_modules": ["q_proj", "v_proj"]}, []),
    "all linear layers": (dinov2, {"target_modules": "all-linear", "modules_to_save": ["classifier"]}, []),
    "rslora and patterns": (
        llama,
        {
            "target_modules": r".*\.(q_proj|v_proj)",
            "use_rslora": True,
            "rank_pattern": {"v_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 3},
        },
        [],
    ),
    "dora": (llama, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}, []),
    "tables": (llama, {"target_modules": ["q_proj", "embed_tokens"]}, ["base_keys_in_file"]),
    "saved tables": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}, []),
    "tokens": (llama, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, []),
    "tied": (
        lambda: llama(tied=True),
        {"target_modules": ["q_proj", "lm_head"]},
        ["base_keys_in_file", "tied_weight"],
    ),
    "head of a task": (bert, {"target_modules": ["query"], "task_type": "SEQ_CLS"}, []),
    "biases": (bert, {"target_modules": ["query"], "bias": "all"}, []),
    "excluded": (llama, {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]}, []),
    "some layers": (llama, {"target_modules": ["q_proj"], "layers_to_transform": [1]}, []),
    "transposed": (gpt2, {"target_modules": ["c_attn"]}, []),
    "convolutions": (resnet, {"target_modules": ["convolution"]}, ["buffers_not_saved"]),
}


@pytest.mark.parametrize(("make", "settings", "expected"), CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore")
def test_what_peft_saves_is_sound_and_changes_the_base_as_merging_does(
    tmp_path: Path, make: Callable[[], Any], settings: dict[str, Any], expected: list[str]
) -> None:
    torch.manual_seed(0)
    base = make()
    base.save_pretrained(tmp_path / "base")
    before = copy.deepcopy(base.state_dict())
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, **settings))
    model.save_pretrained(tmp_path / "untrained")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora" not in name:
            parameter.data += 0.05
    model.save_pretrained(tmp_path / "adapter")
    untrained = audit_files(tmp_path / "untrained")
    # of tables A is zero at the start, of all else B
    assert [finding.where for finding in untrained.findings if finding.kind.endswith("is_zero")] == [""]
    report = audit_files(tmp_path / "adapter", tmp_path / "base")
    assert sorted({finding.kind for finding in report.findings}) == expected, report.findings
    assert report.is_sound
    merged = model.merge_and_unload().state_dict()
    assert report.layers
    for layer in report.layers:
        name = f"{layer.path}.weight"
        change = (merged[name].double() - before[name].double()).norm()
        assert layer.relative == pytest.approx(float(change / before[name].double().norm()), rel=1e-4)
        if not settings.get("use_dora"):
            assert layer.norm == pytest.approx(float(change), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_model_saved_with_its_adapters_is_told_from_a_merged_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(base, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lm_head.modules_to_save" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    # what a trainer's checkpoint of the whole model holds
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    report = audit_files(tmp_path / "whole.pt", tmp_path / "base")
    assert sorted({finding.kind for finding in report.findings}) == ["base_changed", "base_keys_in_file", "no_alpha"]
    # the head that was trained, not the base's own beside it
    assert any("1 tensor of the base changed too (lm_head.weight;" in finding.seen for finding in report.findings)
    assert {layer.adapter for layer in report.layers} == {"default"}
    (tmp_path / "broken").mkdir()
    torch.save(base.state_dict(), tmp_path / "broken" / "pytorch_model.bin")
    assert "adapters_in_merged" in {finding.kind for finding in audit_files(tmp_path / "broken").findings}
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    report = audit_files(tmp_path / "merged", tmp_path / "base")
    assert report.findings == []
    assert report.notes[0].startswith("3 of ")
    assert any("of rank 4" in note or "of rank 8" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore")
def test_two_adapters_of_one_model_have_rows_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"]), adapter_name="first")
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    torch.save(model.state_dict(), tmp_path / "both.pt")
    report = audit_files(tmp_path / "both.pt")
    assert sorted((layer.adapter, layer.rank) for layer in report.layers) == [("first", 4)] * 2 + [("second", 2)] * 2
    assert "adapter" in str(report).splitlines()[-3]


def test_layers_that_peft_replicated_are_compared_with_those_that_they_were_taken_from(tmp_path: Path) -> None:
    spans = [(0, 2), (1, 2)]
    adapter, base = _saved(llama(), tmp_path, target_modules=["q_proj"], layer_replication=spans)
    report = audit_files(adapter, base)
    assert report.findings == []
    weights = dict(llama_of(base).named_parameters())
    for layer, taken in zip(report.layers, (0, 1, 1), strict=True):
        size = float(weights[f"model.layers.{taken}.self_attn.q_proj.weight"].double().norm())
        assert layer.relative == pytest.approx(layer.norm / size, rel=1e-6)


def test_a_table_and_a_head_that_peft_adapted_as_one_are_sound(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target_modules": ["embed_tokens", "q_proj"]}
    adapter, base = _saved(llama(tied=True), tmp_path / "one", **settings, ensure_weight_tying=True)
    for report in (audit_files(adapter), audit_files(adapter, base)):
        # which PEFT writes in full
        assert [finding.kind for finding in report.findings] == ["base_keys_in_file"]
    adapter, base = _saved(llama(tied=True), tmp_path / "other", **settings)
    assert "tied_weight" in [finding.kind for finding in audit_files(adapter, base).findings]


def test_a_table_of_a_classifier_is_tied_to_no_head(tmp_path: Path) -> None:
    adapter, base = _saved(bert(), tmp_path, target_modules=["word_embeddings"], modules_to_save=["classifier"])
    assert audit_files(adapter, base).findings == []


def _saved(model: transformers.PreTrainedModel, folder: Path, **settings: Any) -> tuple[Path, Path]:
    """Write a base, and an adapter on it that is not zero."""
    model.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **settings))
    for value in adapted.parameters():
        if value.requires_grad and value.is_leaf:
            nn.init.normal_(value, std=0.1)
    adapted.save_pretrained(folder / "adapter")
    return folder / "adapter", folder / "base"


def llama_of(folder: Path) -> transformers.PreTrainedModel:
    return transformers.LlamaForCausalLM.from_pretrained(folder)
