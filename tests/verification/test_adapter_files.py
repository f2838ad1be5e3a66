"""The audit of files: sound adapters of every writer pass, with the norms of their updates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eomt.lora.config import adaptation
from eomt.lora.files import save_adapter, trained_state
from eomt.lora.layers import lora_layers, merge_lora_weights
from eomt.lora.record import adaptation_record
from eomt.verification.stored.low_rank import product_norm, rank_of_change
from eomt.verification.stored.report import audit_files
from tests.lora import adapters
from tests.verification.stored import (
    PATHS,
    PREFIX,
    Tensors,
    adapted,
    base,
    kinds,
    kohya,
    tensors,
    write,
    write_base,
)


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
    assert rank_of_change(torch.eye(6)) == (None, pytest.approx(1.0))
    state = torch.random.get_rng_state()
    rank_of_change(low)
    assert torch.equal(state, torch.random.get_rng_state())


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


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"init_lora_weights": "pissa", "backend": "peft"}])
def test_slices_and_pissa_are_sound_in_the_folder_and_in_the_checkpoint(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    words = ["mlp"] if "backend" in options else ["query", "value"]
    plain = adapters.base(torch.float32)
    save_file(plain.state_dict(), tmp_path / "base.safetensors")
    model = adapters.adapted(plain, target_modules=words, rank=4, **options)
    done = adaptation(model)
    assert done is not None
    state = {f"network.{name}": value for name, value in trained_state(model).items()}
    torch.save({"state_dict": state, "adaptation": adaptation_record(done)}, tmp_path / "run.ckpt")
    save_adapter(model, tmp_path / "folder", check_called=False)
    lora_paths = list(lora_layers(model))
    before, after = load_file(tmp_path / "base.safetensors"), merge_lora_weights(model, check_called=False).state_dict()
    changes = {name: float((after[name].double() - before[name]).norm()) for name in before if name in after}
    for name in ("folder", "run.ckpt"):
        report = audit_files(tmp_path / name, tmp_path / "base.safetensors")
        assert [finding for finding in report.findings if finding.kind != "init_changes_base"] == []
        assert all(layer.relative for layer in report.layers)
        assert len(report.layers) == len(lora_paths)
        for layer in report.layers:
            assert layer.norm == pytest.approx(changes[f"{layer.path}.weight"], rel=1e-3)


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
    b[1] = 0
    torch.save({"qkv.lora_a": a, "qkv.lora_b": b}, tmp_path / "slices.pt")
    assert "b_is_zero" in kinds(tmp_path / "slices.pt")


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
