"""The audit of files: sound adapters of every writer pass, and each fault is found by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.files import save_adapter
from eomt.lora.layers import lora_layers
from eomt.lora.record import adaptation_record
from eomt.models.lora import merge_lora_weights
from eomt.verification.adapter_files import audit_files
from eomt.verification.low_rank import product_norm, rank_of_change

PREFIX = "base_model.model."
PATHS = [f"blocks.{index}.{name}" for index in range(3) for name in ("fc1", "fc2")]
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["fc1", "fc2"],
    "modules_to_save": ["head"],
    "bias": "none",
}
Tensors = dict[str, Tensor]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 16)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 5)


def base() -> Network:
    torch.manual_seed(0)
    return Network()


def tensors(prefix: str = PREFIX) -> Tensors:
    """Pairs of rank 4 for all blocks, and a head in full, with PEFT's names."""
    torch.manual_seed(1)
    found = {f"{prefix}head.weight": torch.randn(5, 16), f"{prefix}head.bias": torch.randn(5)}
    for path, weight in base().named_parameters():
        if path.removesuffix(".weight") in PATHS:
            name = prefix + path.removesuffix("weight")
            found[f"{name}lora_A.weight"] = torch.randn(4, weight.shape[1]) * 0.1
            found[f"{name}lora_B.weight"] = torch.randn(weight.shape[0], 4) * 0.1
    return found


def write(folder: Path, state: Tensors | None = None, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors() if state is None else state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def write_base(folder: Path, state: Tensors | None = None) -> Path:
    save_file(base().state_dict() if state is None else state, folder / "base.safetensors")
    return folder / "base.safetensors"


def kinds(path: Path, base_path: Path | None = None) -> list[str]:
    return sorted({finding.kind for finding in audit_files(path, base_path).findings})


def renamed(change: Callable[[str], str]) -> Tensors:
    return {change(name): value for name, value in tensors().items()}


# ------------------------------------------------------------------------------------------ sound files


def test_a_sound_adapter_has_no_findings_and_the_norms_of_its_products(tmp_path: Path) -> None:
    report = audit_files(write(tmp_path / "a"), write_base(tmp_path))
    assert report.findings == []
    assert report.is_sound
    assert report.verdict == "sound: 6 adapters of rank 4"
    state, weights = tensors(), base().state_dict()
    assert [layer.path for layer in report.layers] == PATHS
    for layer in report.layers:
        name = f"{PREFIX}{layer.path}"
        change = 2 * state[f"{name}.lora_B.weight"].double() @ state[f"{name}.lora_A.weight"].double()
        assert layer.norm == pytest.approx(float(change.norm()), rel=1e-9)
        weight = weights[f"{layer.path}.weight"].double()
        assert layer.relative == pytest.approx(float(change.norm() / weight.norm()), rel=1e-6)
    assert report.parameters == 6 * 4 * (16 + 24)
    assert report.in_full == 5 * 16 + 5
    assert report.size == (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert any(note.startswith("head.weight: in full, differs from the base by at most") for note in report.notes)
    json.dumps(report.to_dict(), allow_nan=False)
    assert "blocks.{0-2}.fc1" in str(report)


@pytest.mark.parametrize("shape", [(3, 7, 5), (9, 2, 3), (1, 6, 6)])
def test_the_norm_of_a_product_is_that_of_the_product_which_is_not_made(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    rank, inside, out = shape
    a, b = torch.randn(rank, inside), torch.randn(out, rank)
    assert product_norm(a, b) == pytest.approx(float((b.double() @ a.double()).norm()), rel=1e-12)
    assert product_norm(a, torch.zeros_like(b)) == 0


def test_the_rank_of_a_change_is_found_and_a_full_one_is_told() -> None:
    torch.manual_seed(0)
    low = torch.randn(90, 6) @ torch.randn(6, 80)
    # of random factors the last direction holds far more than a thousandth
    rank, share = rank_of_change(low)
    assert (rank, share) == (6, pytest.approx(1.0, abs=1e-5))
    assert rank_of_change(low + 1e-4 * torch.randn(90, 80))[0] == 6
    assert rank_of_change(torch.randn(300, 200))[0] is None
    assert rank_of_change(torch.zeros(4, 4)) == (0, 1.0)
    state = torch.random.get_rng_state()
    rank_of_change(low)
    assert torch.equal(state, torch.random.get_rng_state())


def kohya(state: Tensors) -> Tensors:
    found = {}
    for name, value in state.items():
        if "lora" in name:
            path, _, half = name.removeprefix(PREFIX).rpartition(".lora_")
            flat = f"lora_unet_{path.replace('.', '_')}"
            found[f"{flat}.lora_{'down' if half[0] == 'A' else 'up'}.weight"] = value
            found[f"{flat}.alpha"] = torch.tensor(8.0)
    return found


def loralib(state: Tensors) -> Tensors:
    return {name.removeprefix(PREFIX).removesuffix(".weight"): value for name, value in state.items() if "lora" in name}


def torchtune(state: Tensors) -> Tensors:
    pairs = {name.removeprefix(PREFIX): value for name, value in state.items() if "lora" in name}
    return {name.replace("lora_A", "lora_a").replace("lora_B", "lora_b"): value for name, value in pairs.items()}


def diffusers(state: Tensors) -> Tensors:
    pairs = {name.removeprefix(PREFIX): value for name, value in state.items() if "lora" in name}
    return {name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value for name, value in pairs.items()}


@pytest.mark.parametrize(
    ("change", "has_alpha"), [(kohya, True), (loralib, False), (torchtune, False), (diffusers, False)]
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_files_of_other_writers_have_the_same_pairs(
    tmp_path: Path, change: Callable[[Tensors], Tensors], has_alpha: bool, ending: str
) -> None:
    ours = audit_files(write(tmp_path / "a"))
    file = tmp_path / f"other.{ending}"
    save_file(change(tensors()), file) if ending == "safetensors" else torch.save(change(tensors()), file)
    report = audit_files(file, write_base(tmp_path))
    assert [finding.kind for finding in report.findings] == ([] if has_alpha else ["no_alpha"])
    norms = [layer.norm * (1 if has_alpha else 2) for layer in report.layers]
    assert norms == pytest.approx([layer.norm for layer in ours.layers], rel=1e-9)
    assert all(layer.relative is not None for layer in report.layers)


def adapted(**options: Any) -> nn.Module:
    config = LoRAConfig(
        rank=4,
        lora_alpha=8,
        target_modules=["blocks"],
        trainable_modules=["head"],
        freeze_base_model=True,
        **options,
    )
    model = apply_lora(base(), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def test_this_package_s_folder_and_checkpoint_are_sound(tmp_path: Path) -> None:
    model = adapted(rank_pattern={"fc1": 2}, use_rslora=True)
    save_adapter(model, tmp_path / "folder", check_called=False)
    done = adaptation(model)
    assert done is not None
    trained = {
        f"network.{name}": value for name, value in model.state_dict().items() if "lora" in name or "head" in name
    }
    torch.save({"state_dict": trained, "adaptation": adaptation_record(done), "epoch": 1}, tmp_path / "run.ckpt")
    expected = {
        path: float(layer.delta_weight().detach().double().norm()) for path, layer in lora_layers(model).items()
    }
    for name in ("folder", "run.ckpt"):
        report = audit_files(tmp_path / name, write_base(tmp_path))
        assert report.findings == []
        assert {layer.path: layer.norm for layer in report.layers} == pytest.approx(expected, rel=1e-5)


def test_slices_and_fused_layers_have_the_norm_of_all_their_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 8), torch.randn(2, 8, 3)
    torch.save({"qkv.lora_a": a, "qkv.lora_b": b}, tmp_path / "slices.pt")
    torch.save({"qkv.lora_A": a.flatten(0, 1), "qkv.lora_B": b.flatten(0, 1)}, tmp_path / "fused.pt")
    save_file({"qkv.weight": torch.randn(24, 8)}, tmp_path / "base.safetensors")
    for name in ("slices.pt", "fused.pt"):
        report = audit_files(tmp_path / name, tmp_path / "base.safetensors")
        assert report.layers[0].norm == pytest.approx(float((b.double() @ a.double()).norm()))
        assert report.is_sound
        assert report.layers[0].relative is not None


def test_convolutions_have_the_norm_of_their_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 3, 3), torch.randn(7, 2, 1, 1)
    mid = torch.randn(2, 2, 3, 3)
    plain = torch.einsum("orxy,rikl->oikl", b, a)
    core = torch.einsum("op,pqkl,qi->oikl", b[..., 0, 0], mid, a[:, :, 0, 0])
    save_file({"c.lora_A.weight": a, "c.lora_B.weight": b}, tmp_path / "plain.safetensors")
    state = {"c.lora_down.weight": a[:, :, :1, :1].contiguous(), "c.lora_up.weight": b, "c.lora_mid.weight": mid}
    save_file(state, tmp_path / "core.safetensors")
    save_file({"c.weight": torch.randn(7, 5, 3, 3)}, tmp_path / "base.safetensors")
    for name, expected in (("plain", plain), ("core", core)):
        report = audit_files(
            tmp_path / f"{name}.safetensors", tmp_path / "base.safetensors" if name == "plain" else None
        )
        assert report.layers[0].norm == pytest.approx(float(expected.norm()), rel=1e-5)
        assert report.is_sound


# ------------------------------------------------------------------------------------------ faults without a base


def zero(names: Callable[[str], bool]) -> Tensors:
    return {name: torch.zeros_like(value) if names(name) else value for name, value in tensors().items()}


def without(names: Callable[[str], bool]) -> Tensors:
    return {name: value for name, value in tensors().items() if not names(name)}


def changed(name: str, value: Tensor) -> Tensors:
    return tensors() | {f"{PREFIX}{name}": value}


FAULTS: dict[str, tuple[str, Callable[[], Tensors], dict[str, Any]]] = {
    "all B zero": ("b_is_zero", lambda: zero(lambda name: "lora_B" in name), {}),
    "one B zero": ("b_is_zero", lambda: zero(lambda name: "1.fc2.lora_B" in name), {}),
    "one A zero": ("a_is_zero", lambda: zero(lambda name: "1.fc2.lora_A" in name), {}),
    "NaN": ("non_finite", lambda: changed("blocks.0.fc1.lora_A.weight", torch.full((4, 16), torch.nan)), {}),
    "no A": ("half_pair", lambda: without(lambda name: "0.fc1.lora_A" in name), {}),
    "no B": ("half_pair", lambda: without(lambda name: "0.fc1.lora_B" in name), {}),
    "empty shard": ("empty_tensor", lambda: changed("blocks.0.fc1.lora_B.weight", torch.empty(0)), {}),
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
    "no prefix": ("prefix_missing", lambda: renamed(lambda name: name.removeprefix(PREFIX)), {}),
    "adapter's name": (
        "adapter_name_in_keys",
        lambda: renamed(lambda name: name.replace("A.weight", "A.default.weight").replace("B.w", "B.default.w")),
        {},
    ),
    "no lengths": ("dora_mismatch", tensors, {"use_dora": True}),
    "lengths": ("dora_mismatch", lambda: changed("blocks.0.fc1.lora_magnitude_vector", torch.ones(24)), {}),
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


def test_a_merged_file_that_still_holds_adapters_is_a_fault(tmp_path: Path) -> None:
    state = base().state_dict() | tensors("")
    save_file(state, tmp_path / "model.safetensors")
    assert "adapters_in_merged" in kinds(tmp_path)
    assert "adapters_in_merged" in kinds(tmp_path / "model.safetensors")
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


# ------------------------------------------------------------------------------------------ with a base


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


def test_what_became_of_tensors_in_full_is_told(tmp_path: Path) -> None:
    state = base().state_dict()
    # PEFT's copy of a head that never moved
    unchanged = tensors() | {f"{PREFIX}head.{name}": state[f"head.{name}"] for name in ("weight", "bias")}
    assert kinds(write(tmp_path / "a", unchanged), write_base(tmp_path)) == ["module_to_save_unchanged"]
    bigger = changed("head.weight", torch.ones(7, 16))
    assert kinds(write(tmp_path / "b", bigger), write_base(tmp_path)) == ["other_size"]
    moved = changed("blocks.0.fc1.weight", state["blocks.0.fc1.weight"] + 0.25)
    report = audit_files(write(tmp_path / "c", moved), write_base(tmp_path))
    (fault,) = [finding for finding in report.findings if finding.severity == "fault"]
    assert fault.kind == "base_changed"
    assert "blocks.0.fc1.weight; at most 0.25" in fault.seen
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
