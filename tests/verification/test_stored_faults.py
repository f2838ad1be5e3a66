"""The audit of files without their base: each fault is found by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from eomt.errors import UserError
from eomt.lora.config import adaptation
from eomt.lora.record import adaptation_record
from eomt.verification.stored.report import audit_files
from tests.verification.stored import (
    CONFIG,
    PREFIX,
    Tensors,
    adapted,
    base,
    changed,
    kinds,
    renamed,
    tensors,
    write,
    write_base,
)


def zero(names: Callable[[str], bool]) -> Tensors:
    return {name: torch.zeros_like(value) if names(name) else value for name, value in tensors().items()}


def without(names: Callable[[str], bool]) -> Tensors:
    return {name: value for name, value in tensors().items() if not names(name)}


def lengths() -> Tensors:
    """DoRA's lengths beside each pair."""
    state = tensors()
    halves = {name: value for name, value in state.items() if "lora_B" in name}
    return state | {name.replace("lora_B.weight", "lora_magnitude_vector"): b.norm(dim=1) for name, b in halves.items()}


def deeper() -> Tensors:
    """Layers two names below the root, as PEFT looks for their numbers."""
    return renamed(lambda name: name.replace(PREFIX + "blocks", f"{PREFIX}model.blocks"))


FAULTS: dict[str, tuple[str, Callable[[], Tensors], dict[str, Any]]] = {
    "all B zero": ("b_is_zero", lambda: zero(lambda name: "lora_B" in name), {}),
    "one B zero": ("b_is_zero", lambda: zero(lambda name: "1.fc2.lora_B" in name), {}),
    "one A zero": ("a_is_zero", lambda: zero(lambda name: "1.fc2.lora_A" in name), {}),
    "NaN": ("non_finite", lambda: changed("blocks.0.fc1.lora_A.weight", torch.full((4, 16), torch.nan)), {}),
    "no A": ("half_pair", lambda: without(lambda name: "0.fc1.lora_A" in name), {}),
    "no B": ("half_pair", lambda: without(lambda name: "0.fc1.lora_B" in name), {}),
    "empty shard": ("empty_tensor", lambda: changed("blocks.0.fc1.lora_B.weight", torch.empty(0)), {}),
    "empty head": ("empty_tensor", lambda: changed("head.weight", torch.empty(0)), {}),
    "ranks of halves": ("pair_does_not_fit", lambda: changed("blocks.0.fc1.lora_B.weight", torch.ones(24, 3)), {}),
    "integers": ("pair_does_not_fit", lambda: changed("blocks.0.fc1.lora_B.weight", torch.ones(24, 4).int()), {}),
    "rank": ("rank_mismatch", tensors, {"r": 8}),
    "rank pattern": ("rank_mismatch", tensors, {"rank_pattern": {"fc1": 2}}),
    "target alone": ("target_without_tensors", tensors, {"target_modules": ["fc1", "fc2", "blocks.3.fc1"]}),
    "pair alone": ("tensors_without_target", tensors, {"target_modules": ["fc1"]}),
    "pair excluded": ("tensors_without_target", tensors, {"exclude_modules": ["fc2"]}),
    "pattern": ("target_without_tensors", tensors, {"target_modules": r".*\.fc3"}),
    "no head": ("module_to_save_missing", lambda: without(lambda name: "head" in name), {}),
    "head not named": ("base_keys_in_file", tensors, {"modules_to_save": None}),
    "base": ("base_keys_in_file", lambda: changed("blocks.0.fc1.weight", torch.ones(24, 16)), {}),
    "base layer": ("base_keys_in_file", lambda: changed("blocks.0.fc1.base_layer.weight", torch.ones(24, 16)), {}),
    "twice": ("doubled_prefix", lambda: renamed(lambda name: PREFIX + name), {}),
    "parallel": ("wrapper_prefix", lambda: renamed(lambda name: name.replace(PREFIX, f"{PREFIX}module.")), {}),
    "compiled": ("wrapper_prefix", lambda: renamed(lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod.")), {}),
    "sharded": (
        "wrapper_prefix",
        lambda: renamed(lambda name: name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module.")),
        {},
    ),
    "NaN in the head": ("non_finite", lambda: changed("head.bias", torch.full((5,), torch.nan)), {}),
    "no prefix": ("prefix_missing", lambda: renamed(lambda name: name.removeprefix(PREFIX)), {}),
    "adapter's name": (
        "adapter_name_in_keys",
        lambda: renamed(lambda name: name.replace("A.weight", "A.default.weight").replace("B.w", "B.default.w")),
        {},
    ),
    "no lengths": ("dora_mismatch", tensors, {"use_dora": True}),
    "lengths": ("dora_mismatch", lambda: changed("blocks.0.fc1.lora_magnitude_vector", torch.ones(24)), {}),
    "short lengths": (
        "dora_mismatch",
        lambda: lengths() | {f"{PREFIX}blocks.1.fc2.lora_magnitude_vector": torch.ones(7)},
        {"use_dora": True},
    ),
    "lengths of zero": (
        "dora_mismatch",
        lambda: lengths() | {f"{PREFIX}blocks.1.fc2.lora_magnitude_vector": torch.zeros(16)},
        {"use_dora": True},
    ),
    "no tokens": ("module_to_save_missing", tensors, {"trainable_token_indices": [1]}),
    "no tokens of one": (
        "module_to_save_missing",
        lambda: changed("table.token_adapter.trainable_tokens_delta", torch.ones(1, 16)),
        {"trainable_token_indices": {"table": [1], "embed": [2]}},
    ),
    "NaN in tokens": (
        "non_finite",
        lambda: changed("table.token_adapter.trainable_tokens_delta", torch.full((1, 16), torch.nan)),
        {"trainable_token_indices": {"table": [1]}},
    ),
    "head of zeros": ("module_to_save_zero", lambda: zero(lambda name: "head" in name), {}),
    "other layers": ("tensors_without_target", tensors, {"layers_to_transform": [0, 1], "layers_pattern": ["blocks"]}),
    "one layer": ("tensors_without_target", deeper, {"layers_to_transform": 0}),
    "no targets": ("targets_unusable", tensors, {"target_modules": None}),
    "damaged pattern": ("targets_unusable", tensors, {"target_modules": "(("}),
    "damaged exclusion": ("targets_unusable", tensors, {"exclude_modules": "*fc"}),
    "no bias": ("bias_missing", lambda: without(lambda name: "bias" in name), {"bias": "all"}),
    "pissa": ("init_changes_base", tensors, {"init_lora_weights": "pissa_niter_4"}),
    "field": ("unknown_field", tensors, {"use_new_thing": True, "peft_version": "9.9"}),
    "nothing": ("no_adapters", lambda: without(lambda name: "lora" in name), {"target_modules": ["x"]}),
    "lookahead": ("pattern_not_read", tensors, {"target_modules": r"(?!x).*fc."}),
    "stacks": ("norms_of_stacks", tensors, {"target_parameters": ["experts.gate"]}),
}
WARNINGS = (
    *("base_keys_in_file", "bias_missing", "init_changes_base", "unknown_field", "pattern_not_read"),
    *("no_alpha", "norms_of_stacks"),
)


@pytest.mark.parametrize(("kind", "state", "fields"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_a_file_is_found_by_name(
    tmp_path: Path, kind: str, state: Callable[[], Tensors], fields: dict[str, Any]
) -> None:
    report = audit_files(write(tmp_path / "a", state(), CONFIG | fields))
    found = [finding for finding in report.findings if finding.kind == kind]
    assert found, report.findings
    assert all(finding.remedy for finding in report.findings)
    assert all((finding.severity == "warning") == (finding.kind in WARNINGS) for finding in report.findings)
    assert report.is_sound == (kind in WARNINGS)
    assert f" {kind}: " in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_few_untrained_pairs_are_named_and_all_are_one_finding(tmp_path: Path) -> None:
    state = zero(lambda name: "fc2.lora_B" in name)
    found = [finding.where for finding in audit_files(write(tmp_path / "some", state)).findings]
    assert found == ["blocks.0.fc2", "blocks.1.fc2", "blocks.2.fc2"]
    text = str(audit_files(write(tmp_path / "some", state)))
    assert "fault b_is_zero: 'blocks.{0-2}.fc2' has a B of zeros" in text
    assert text.count("b_is_zero") == 1
    table = {f"table.lora_embedding_{half}": torch.ones(shape) for half, shape in (("A", (4, 9)), ("B", (16, 4)))}
    table = {PREFIX + name: value * ("_B" in name) for name, value in table.items()}
    config = CONFIG | {"target_modules": ["fc1", "fc2", "table"]}
    assert "has an A of zeros" in str(audit_files(write(tmp_path / "table", tensors() | table, config)))
    report = audit_files(write(tmp_path / "all", zero(lambda name: "lora_B" in name)))
    assert str(report.findings[0]).startswith("B is zero in all 6 pairs")
    assert report.verdict == "not sound: 6 adapters of rank 4; 1 fault"


def test_of_the_heads_that_peft_names_for_a_task_one_is_enough(tmp_path: Path) -> None:
    state = renamed(lambda name: name.replace("head", "score"))
    config = CONFIG | {"modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS"}
    assert kinds(write(tmp_path / "a", state, config)) == []


def test_short_targets_that_match_nothing_are_a_warning(tmp_path: Path) -> None:
    report = audit_files(write(tmp_path / "a", None, CONFIG | {"target_modules": ["fc1", "fc2", "q_proj"]}))
    assert [(finding.kind, finding.severity) for finding in report.findings] == [("target_without_tensors", "warning")]
    assert report.is_sound


@pytest.mark.parametrize("excluded", [["fc3"], [r"blocks.0.fc2", "fc3"], r".*\.fc3"])
def test_targets_that_are_excluded_have_no_pairs(tmp_path: Path, excluded: str | list[str]) -> None:
    config = CONFIG | {"target_modules": ["fc1", "fc2", "fc3"], "exclude_modules": excluded}
    state = without(lambda name: "blocks.0.fc2" in name)
    assert kinds(write(tmp_path / "a", state, config)) == []


def test_pairs_of_the_layers_that_are_named_are_sound(tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "a", deeper(), CONFIG | {"layers_to_transform": [0, 1, 2]})) == []
    report = audit_files(write(tmp_path / "b", deeper(), CONFIG | {"layers_to_transform": [0, 2]}))
    assert [finding.where for finding in report.findings] == ["model.blocks.1.fc1", "model.blocks.1.fc2"]
    whole = CONFIG | {"layers_to_transform": [0, 2], "target_modules": ["model.blocks.1.fc1", "fc1", "fc2"]}
    report = audit_files(write(tmp_path / "c", deeper(), whole))
    assert [finding.where for finding in report.findings] == ["model.blocks.1.fc2"]


def test_changes_of_tokens_that_are_there_are_sound(tmp_path: Path) -> None:
    state = changed("table.token_adapter.trainable_tokens_delta", torch.ones(1, 16))
    for number, tokens in enumerate(([1], {"table": [1]})):
        config = CONFIG | {"trainable_token_indices": tokens}
        found = audit_files(write(tmp_path / str(number), state, config)).findings
        assert found == []


def test_lengths_of_linear_layers_and_of_tables_are_sound(tmp_path: Path) -> None:
    table = {"lora_embedding_A": torch.ones(4, 9), "lora_embedding_B": torch.ones(16, 4)}
    table |= {"lora_magnitude_vector": torch.ones(16)}
    state = lengths() | {f"{PREFIX}table.{name}": value for name, value in table.items()}
    config = CONFIG | {"target_modules": ["fc1", "fc2", "table"], "use_dora": True}
    assert kinds(write(tmp_path / "a", state, config)) == []


def test_a_merged_file_that_still_holds_adapters_is_a_fault(tmp_path: Path) -> None:
    state = base().state_dict() | tensors("")
    save_file(state, tmp_path / "model.safetensors")
    assert "adapters_in_merged" in kinds(tmp_path)
    assert "adapters_in_merged" in kinds(tmp_path / "model.safetensors")
    save_file(state, tmp_path / "my_merged_weights.safetensors")
    assert "adapters_in_merged" in kinds(tmp_path / "my_merged_weights.safetensors")
    # a training's checkpoint may hold both
    torch.save(state, tmp_path / "step_100.pt")
    report = audit_files(tmp_path / "step_100.pt")
    assert {finding.kind for finding in report.findings} == {"base_keys_in_file", "no_alpha"}


def test_a_checkpoint_without_its_head_is_told_by_the_record(tmp_path: Path) -> None:
    model = adapted()
    done = adaptation(model)
    assert done is not None
    record = adaptation_record(done)
    state = {f"network.{name}": value for name, value in model.state_dict().items() if "lora" in name}
    torch.save({"state_dict": state, "adaptation": record}, tmp_path / "run.ckpt")
    assert kinds(tmp_path / "run.ckpt") == ["module_to_save_missing"]
    record["adapters"]["blocks.0.fc1"][0] = 2
    torch.save({"state_dict": state, "adaptation": record}, tmp_path / "run.ckpt")
    assert kinds(tmp_path / "run.ckpt") == ["module_to_save_missing", "rank_mismatch"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no adapter_config.json|holds neither"),
        ({"adapter_config.json": "{}"}, "peft_type is None; only LORA can be read"),
        ({"adapter_config.json": '{"peft_type": "IA3"}'}, "peft_type is 'IA3'; only LORA can be read"),
        ({"adapter_config.json": '{"peft_type": "LORA", "r": 0}'}, "r is 0"),
        ({"adapter_config.json": '{"peft_type": "LORA"}'}, "holds neither adapter_model.safetensors nor"),
        ({"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.bin": "x"}, "cannot be read"),
        ({"adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.safetensors": "xxxxxxxxx"}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, content: dict[str, str], message: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        audit_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_adapters_is_refused_with_their_names(tmp_path: Path) -> None:
    write(tmp_path / "second")
    write(tmp_path / "first")
    with pytest.raises(UserError, match="holds no adapter itself; give one of the folders in it: first, second"):
        audit_files(tmp_path)


def test_weights_without_adapters_need_a_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapters; give an adapter, or the base it was made from with --base"):
        audit_files(write_base(tmp_path))


def test_tensors_of_the_meta_device_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({name: value.to("meta") for name, value in tensors("").items()}, tmp_path / "meta.pt")
    with pytest.raises(UserError, match="has no values \\(meta device\\)"):
        audit_files(tmp_path / "meta.pt")
