"""The audit of files with their base: what does not fit, what changed, and what would be lost."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from eomt.lora.files import save_adapter
from eomt.models.lora import merge_lora_weights
from eomt.verification import AuditError
from eomt.verification.stored.report import audit_files
from tests.verification.stored import CONFIG, PREFIX, adapted, base, changed, kinds, tensors, write, write_base


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.encoder."])
def test_the_base_may_have_a_prefix_that_the_adapter_lacks_and_the_other_way_round(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: value for name, value in base().state_dict().items()}
    report = audit_files(write(tmp_path / "a"), write_base(tmp_path, state))
    assert report.findings == []
    longer = {name.replace(PREFIX, f"{PREFIX}{prefix}"): value for name, value in tensors().items()}
    report = audit_files(write(tmp_path / "b", longer), write_base(tmp_path))
    assert report.findings == []
    assert all(layer.relative for layer in report.layers)


def test_weights_of_another_size_or_name_do_not_fit(tmp_path: Path) -> None:
    adapter = write(tmp_path / "a")
    state = base().state_dict()
    state["blocks.0.fc1.weight"] = torch.ones(24, 17)
    report = audit_files(adapter, write_base(tmp_path, state))
    assert [(finding.kind, finding.where) for finding in report.findings] == [("does_not_fit_base", "blocks.0.fc1")]
    assert "[24, 16], but the base has [24, 17]" in report.findings[0].seen
    del state["blocks.0.fc1.weight"]
    assert kinds(adapter, write_base(tmp_path, state)) == ["does_not_fit_base"]
    others = {f"decoder.{name.replace('fc', 'proj')}": value for name, value in base().state_dict().items()}
    report = audit_files(adapter, write_base(tmp_path, others))
    assert [finding.where for finding in report.findings if finding.kind == "does_not_fit_base"] == [""]
    transposed = {name: value.T.contiguous() for name, value in base().state_dict().items() if "weight" in name}
    assert "does_not_fit_base" not in kinds(adapter, write_base(tmp_path, transposed))


def test_another_base_is_told_by_the_fingerprint(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path / "folder", base="the/first", check_called=False)
    assert kinds(tmp_path / "folder", write_base(tmp_path)) == []
    state = base().state_dict()
    state["blocks.2.fc2.weight"] = state["blocks.2.fc2.weight"] + 0.1
    report = audit_files(tmp_path / "folder", write_base(tmp_path, state))
    (finding,) = report.findings
    assert finding.kind == "other_base"
    assert "(the/first): the weights of 'blocks.2.fc2' differ" in finding.seen


def test_a_base_in_another_layout_is_no_fault_of_this_package_s_adapter(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path / "folder", check_called=False)
    state = {name.replace("fc", "proj"): value for name, value in base().state_dict().items()}
    report = audit_files(tmp_path / "folder", write_base(tmp_path, state))
    assert [(finding.kind, finding.severity) for finding in report.findings] == [("other_layout", "warning")]


def test_what_became_of_tensors_in_full_is_told(tmp_path: Path) -> None:
    state, base_file = base().state_dict(), write_base(tmp_path)
    # PEFT's copy of a head that never moved
    unchanged = tensors() | {f"{PREFIX}head.{name}": state[f"head.{name}"] for name in ("weight", "bias")}
    assert kinds(write(tmp_path / "a", unchanged), write_base(tmp_path)) == ["module_to_save_unchanged"]
    rounded = {name: value.bfloat16() if "head" in name else value for name, value in unchanged.items()}
    assert kinds(write(tmp_path / "a", rounded), write_base(tmp_path)) == ["module_to_save_unchanged"]
    bigger = changed("head.weight", torch.ones(7, 16))
    assert kinds(write(tmp_path / "b", bigger), write_base(tmp_path)) == ["other_size"]
    moved = changed("blocks.0.fc1.weight", state["blocks.0.fc1.weight"] + 0.25)
    report = audit_files(write(tmp_path / "c", moved), write_base(tmp_path))
    (fault,) = [finding for finding in report.findings if finding.severity == "fault"]
    assert fault.kind == "base_changed"
    assert "blocks.0.fc1.weight; at most 0.25" in fault.seen
    # what PEFT loads though nothing names it
    for fields in ({}, {"bias": "all"}):
        state_of_head = changed("head.bias", state["head.bias"] + 1)
        report = audit_files(
            write(tmp_path / "e", state_of_head, CONFIG | {"modules_to_save": None} | fields), base_file
        )
        (fault,) = [finding for finding in report.findings if finding.severity == "fault"]
        assert fault.kind == "base_changed"
        assert ("head.bias" in fault.seen) == (not fields)
        assert "head.weight" in fault.seen
    empty = changed("head.weight", torch.ones(0))
    assert kinds(write(tmp_path / "f", empty), base_file) == ["empty_tensor"]
    stray = changed("extra.weight", torch.ones(2))
    assert kinds(write(tmp_path / "d", stray), write_base(tmp_path)) == ["base_keys_in_file", "lost_on_loading"]


def test_a_checkpoint_whose_base_trained_too_is_told(tmp_path: Path) -> None:
    state = base().state_dict()
    torch.save(state | tensors(""), tmp_path / "same.pt")
    # its head is among the tensors
    report = audit_files(tmp_path / "same.pt", write_base(tmp_path))
    (finding,) = [finding for finding in report.findings if finding.kind == "base_changed"]
    assert "head.weight" in finding.seen
    assert "blocks" not in finding.seen
    state["blocks.1.fc1.bias"] = state["blocks.1.fc1.bias"] + 1
    torch.save(state | tensors(""), tmp_path / "other.pt")
    report = audit_files(tmp_path / "other.pt", write_base(tmp_path))
    assert any("blocks.1.fc1.bias; at most 1" in finding.seen for finding in report.findings)


def test_running_statistics_tied_weights_and_rounding_are_told(tmp_path: Path) -> None:
    state = base().state_dict() | {"norm.running_mean": torch.ones(3), "norm.running_var": torch.ones(3)}
    assert kinds(write(tmp_path / "a"), write_base(tmp_path, state)) == ["buffers_not_saved"]
    small = {name: value * 1e-3 if "lora_B" in name else value for name, value in tensors().items()}
    half = {name: value.bfloat16() for name, value in base().state_dict().items()}
    assert kinds(write(tmp_path / "b", small), write_base(tmp_path, half)) == ["rounding_swallows"]
    assert kinds(write(tmp_path / "b", small), write_base(tmp_path)) == []
    tiny = {name: value * 1e-9 if "lora_B" in name else value for name, value in tensors().items()}
    assert kinds(write(tmp_path / "b", tiny), write_base(tmp_path)) == ["rounding_swallows"]
    assert kinds(write(tmp_path / "a"), write_base(tmp_path, half)) == []
    folder = tmp_path / "tied"
    folder.mkdir()
    table = torch.randn(9, 16)
    save_file(base().state_dict() | {"model.embed_tokens.weight": table}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "x", "tie_word_embeddings": true}')
    pair = {"lm_head.lora_A.weight": torch.randn(4, 16), "lm_head.lora_B.weight": torch.randn(9, 4)}
    state = tensors() | {PREFIX + name: value for name, value in pair.items()}
    config = CONFIG | {"target_modules": ["fc1", "fc2", "lm_head"]}
    report = audit_files(write(tmp_path / "c", state, config), folder)
    assert [(finding.kind, finding.where) for finding in report.findings] == [("tied_weight", "lm_head")]
    assert report.layers[-1].relative is not None


def test_layers_of_the_base_that_lost_their_pairs_are_told(tmp_path: Path) -> None:
    state = {name: value for name, value in tensors().items() if "blocks.2" not in name}
    report = audit_files(write(tmp_path / "a", state), write_base(tmp_path))
    found = [(finding.kind, finding.where) for finding in report.findings]
    assert found == [("target_without_tensors", "blocks.2.fc1"), ("target_without_tensors", "blocks.2.fc2")]
    assert report.is_sound
    config = CONFIG | {"layers_to_transform": [0, 1], "layers_pattern": "blocks"}
    assert kinds(write(tmp_path / "b", state, config), write_base(tmp_path)) == []


def test_a_merged_file_is_compared_with_its_base(tmp_path: Path) -> None:
    model = merge_lora_weights(adapted(), check_called=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    report = audit_files(tmp_path / "model.safetensors", write_base(tmp_path))
    assert report.findings == []
    assert report.notes[0] == "8 of 14 tensors differ from the base."
    assert any("of rank 4 (100.0% of the change)" in note for note in report.notes)
    assert kinds(write_base(tmp_path), write_base(tmp_path)) == ["nothing_changed"]
    state = load_file(tmp_path / "model.safetensors")
    del state["head.bias"]
    state["head.weight"][0] = torch.nan
    save_file(state, tmp_path / "broken.safetensors")
    assert kinds(tmp_path / "broken.safetensors", write_base(tmp_path)) == ["non_finite", "tensors_missing"]
    save_file({"other.name": torch.ones(2)}, tmp_path / "stranger.safetensors")
    assert kinds(tmp_path / "stranger.safetensors", write_base(tmp_path)) == ["does_not_fit_base"]
    file = tmp_path / "model.safetensors"
    for prefix in (PREFIX, "module.", "_orig_mod."):
        save_file({prefix + name: value for name, value in model.state_dict().items()}, file)
        report = audit_files(file, write_base(tmp_path))
        assert [(finding.kind, finding.severity) for finding in report.findings] == [("wrapper_prefix", "fault")]
    save_file({name.replace("fc1.", "fc1.base_layer."): value for name, value in model.state_dict().items()}, file)
    assert kinds(file, write_base(tmp_path)) == ["wrapper_prefix"]
    save_file(model.state_dict() | {"head.bias": torch.empty(0)}, file)
    assert kinds(file, write_base(tmp_path)) == ["empty_tensor"]


def test_a_merged_file_of_a_tied_base_may_lack_the_tied_head_and_nothing_else(tmp_path: Path) -> None:
    table, bias = torch.randn(50, 16), torch.randn(50)
    state = base().state_dict() | {
        "model.embed_tokens.weight": table,
        "lm_head.bias": bias,
        "norm.weight": torch.ones(16),
    }
    # what older files hold, and models do not
    old = {
        "h.0.attn.bias": torch.ones(1, 1, 4, 4),
        "h.0.attn.masked_bias": torch.ones(()),
        "end.weight": torch.ones(16),
    }
    tied = {"lm_head.weight": table.clone(), "decoder.bias": bias.clone()}
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(state | old | tied, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "x", "tie_word_embeddings": true}')
    changed_layers = {name: state[name] + 1 for name in (f"blocks.{index}.fc1.weight" for index in range(3))}
    merged = state | {"end.weight": torch.ones(16)} | changed_layers
    file = tmp_path / "merged.safetensors"
    save_file(merged, file)
    assert kinds(file, folder) == []
    for name in ("blocks.1.fc1.weight", "end.weight"):
        save_file({key: value for key, value in merged.items() if key != name}, file)
        (finding,) = audit_files(file, folder).findings
        assert finding.kind == "tensors_missing"
        assert f"1 tensor of the base missing ({name})" in finding.seen


def test_layers_that_were_not_merged_are_told(tmp_path: Path) -> None:
    state, file = base().state_dict(), tmp_path / "merged.safetensors"
    moved = {name: state[name] + 1 for name in ("blocks.0.fc1.weight", "blocks.2.fc1.weight", "head.weight")}
    save_file(state | moved, file)
    report = audit_files(file, write_base(tmp_path))
    (finding,) = report.findings
    assert (finding.kind, finding.where, finding.severity) == ("partly_merged", "blocks.1.fc1.weight", "warning")
    assert finding.seen == "is what it was in the base, though blocks.0.fc1.weight changed"
    assert report.status == 0
    report.require()


def test_an_update_many_times_its_weight_is_told(tmp_path: Path) -> None:
    name = f"{PREFIX}blocks.1.fc2.lora_B.weight"
    adapter = write(tmp_path / "a", changed("blocks.1.fc2.lora_B.weight", tensors()[name] * 1e6))
    (finding,) = audit_files(adapter, write_base(tmp_path)).findings
    assert (finding.kind, finding.where) == ("update_exceeds_weight", "blocks.1.fc2")
    assert finding.seen.endswith("times its size (1 layer by more than 100)")


def test_one_pair_under_the_names_of_several_layers_is_told(tmp_path: Path) -> None:
    state = tensors()
    for half in "AB":
        for index in (1, 2):
            first = state[f"{PREFIX}blocks.0.fc1.lora_{half}.weight"]
            state[f"{PREFIX}blocks.{index}.fc1.lora_{half}.weight"] = first.clone()
    adapter = write(tmp_path / "a", state)
    (finding,) = audit_files(adapter).findings
    assert (finding.kind, finding.where, finding.severity) == ("copied_pair", "blocks.0.fc1", "warning")
    assert finding.seen.startswith("holds the same pair as blocks.1.fc1, blocks.2.fc1: ")
    report = audit_files(adapter, write_base(tmp_path))
    assert [(finding.kind, finding.severity) for finding in report.findings] == [("copied_pair", "fault")]
    assert report.status == 1
    with pytest.raises(AuditError, match=r"^audit: 'blocks\.0\.fc1' holds the same pair"):
        report.require()
    # one module under three names
    shared = base().state_dict()
    shared |= {f"blocks.{index}.fc1.weight": shared["blocks.0.fc1.weight"].clone() for index in (1, 2)}
    assert kinds(adapter, write_base(tmp_path, shared)) == []
