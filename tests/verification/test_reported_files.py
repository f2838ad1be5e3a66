"""Faults of files that people reported in public, rebuilt small: each is found by its name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eomt.verification.stored.report import audit_files
from tests.verification.stored import CONFIG, PREFIX, base, kohya, tensors, write, write_base

# what is audited, and its base if it takes one
Files = tuple[Path, Path | None]


def only_started(folder: Path) -> Files:
    """Trained with DeepSpeed, and every B is zero."""
    return write(folder / "a", {k: v * ("lora_B" not in k) for k, v in tensors().items()}), None


def sharded(folder: Path) -> Files:
    """ZeRO-3 keeps the values elsewhere: each tensor has the shape [0]."""
    return write(folder / "a", {k: v.new_empty(0) if "lora" in k else v for k, v in tensors().items()}), None


def nothing_saved(folder: Path) -> Files:
    """A patched `state_dict` was filtered twice: adapter_model.bin of 443 bytes."""
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    torch.save({}, folder / "adapter_model.bin")
    return folder, None


def compiled(folder: Path) -> Files:
    """Saved through torch.compile's wrapper, around PEFT's."""
    return write(folder / "a", {f"_orig_mod.{k}": v for k, v in tensors().items()}), None


def bare_names(folder: Path) -> Files:
    """Exported under the names of the model, without PEFT's prefix."""
    return write(folder / "a", {k.removeprefix(PREFIX): v for k, v in tensors().items()}), None


def lost_head(folder: Path) -> Files:
    """`modules_to_save` was not passed on, so that the head was neither wrapped nor saved."""
    return write(folder / "a", {k: v for k, v in tensors().items() if "head" not in k}), None


def head_as_target(folder: Path) -> Files:
    """The head was appended to the targets, in place of modules_to_save, and comes back random."""
    state = {k: v for k, v in tensors().items() if "head" not in k}
    targets = ["blocks.0.fc1", *(f"blocks.{i}.fc{j}" for i in range(3) for j in (1, 2)), "transformer.score"]
    return write(folder / "a", state, CONFIG | {"modules_to_save": None, "target_modules": targets}), None


def not_merged(folder: Path) -> Files:
    """`merge_and_unload` gave the weights of the base."""
    save_file(base().state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors", write_base(folder)


def diverged(folder: Path) -> Files:
    """A kohya LoRA of NaN, which makes black images."""
    state = {k: v * torch.nan if v.ndim else v for k, v in kohya(tensors()).items()}
    save_file(state, folder / "lora.safetensors")
    return folder / "lora.safetensors", None


def tied_head(folder: Path) -> Files:
    """An adapter on lm_head of a model whose embeddings are tied: merging changes both."""
    (folder / "base").mkdir()
    save_file({"model.embed_tokens.weight": torch.randn(9, 16)}, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"tie_word_embeddings": true}')
    state = {"lm_head.lora_A.weight": torch.randn(4, 16), "lm_head.lora_B.weight": torch.randn(9, 4)}
    config = CONFIG | {"target_modules": ["lm_head"], "modules_to_save": None}
    return write(folder / "a", {PREFIX + k: v for k, v in state.items()}, config), folder / "base"


def new_tokens(folder: Path) -> Files:
    """Trained on a base with more tokens than the one that it is loaded onto."""
    (folder / "base").mkdir()
    save_file(
        {"embed_tokens.weight": torch.randn(9, 16), "fc1.weight": torch.ones(24, 16)},
        folder / "base" / "model.safetensors",
    )
    state = {"fc1.lora_A.weight": torch.randn(4, 16), "fc1.lora_B.weight": torch.randn(24, 4)}
    state["embed_tokens.weight"] = torch.randn(11, 16)
    config = CONFIG | {"target_modules": ["fc1"], "modules_to_save": ["embed_tokens"]}
    return write(folder / "a", {PREFIX + k: v for k, v in state.items()}, config), folder / "base"


REPORTS: dict[str, tuple[Callable[[Path], Files], str]] = {
    "huggingface/peft#1402": (only_started, "b_is_zero"),
    "huggingface/peft#2500": (sharded, "empty_tensor"),
    "huggingface/transformers#24551": (nothing_saved, "no_adapters"),
    "MakazhanAlpamys/Soup#335": (compiled, "wrapper_prefix"),
    "redai-studio/Relax#262": (bare_names, "prefix_missing"),
    "unslothai/unsloth#3317": (lost_head, "module_to_save_missing"),
    "huggingface/peft#577": (head_as_target, "target_without_tensors"),
    "OpenBMB/MiniCPM-V#559": (not_merged, "nothing_changed"),
    "bmaltais/kohya_ss#1986": (diverged, "non_finite"),
    "huggingface/peft#2018": (tied_head, "tied_weight"),
    "huggingface/peft#436": (new_tokens, "other_size"),
}


@pytest.mark.parametrize(("make", "kind"), REPORTS.values(), ids=REPORTS.keys())
def test_a_reported_fault_is_found_by_name(tmp_path: Path, make: Callable[[Path], Files], kind: str) -> None:
    report = audit_files(*make(tmp_path))
    assert kind in {finding.kind for finding in report.findings}
    assert report.is_sound == (kind in ("tied_weight", "other_size"))


def test_names_that_differ_from_those_of_the_base_are_said(tmp_path: Path) -> None:
    """vllm-project/vllm#34186: a loader that goes by names alone answered as the base did."""
    state = {f"model.{name}": value for name, value in base().state_dict().items()}
    report = audit_files(write(tmp_path / "a"), write_base(tmp_path, state))
    assert "blocks.0.fc1.weight in the file is model.blocks.0.fc1.weight in the base." in report.notes
    assert audit_files(write(tmp_path / "b"), write_base(tmp_path)).notes == [
        note for note in report.notes if "in the file" not in note
    ]
