"""What only PEFT has, DoRA and PiSSA; and what happens without it."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import adapter_parameters, lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import fill, load_adapter, save_adapter, trained_state
from eomt.lora.layers import count_lora_parameters, disable_adapters, merge_lora_weights, remove_adapters
from eomt.lora.summary import get_lora_stats, print_lora_summary
from tests.lora.adapters import DORA, PISSA, adapted, answer, assert_same, base, both, step, variants
from tests.tiny import make_image

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# -- which backend ---------------------------------------------------------------------------------------------------


def test_without_peft_the_native_backend_steps_in(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = LoRAConfig(target_modules=["attention"], freeze_base_model=True, backend="peft")
    with pytest.warns(UserWarning, match="PEFT library not found! Falling back to manual LoRA implementation..."):
        model = apply_lora(base(), config)
    print_lora_summary(model, config)
    printed = capsys.readouterr().out
    assert "PEFT library not found! Falling back to manual LoRA implementation..." in printed
    count = count_lora_parameters(model)
    assert f"[LoRA] Manual injection: {count:,} trainable params across 6 layers" in printed
    for arguments in (DORA, PISSA):
        with pytest.raises(UserError, match="pip install peft"):
            apply_lora(base(), LoRAConfig(freeze_base_model=True, **arguments))


@both
def test_the_summary_names_the_backend_and_the_counts(backend: str, capsys: Any) -> None:
    model = apply_lora(base(), LoRAConfig(target_modules=["attention"], freeze_base_model=True, backend=backend))
    print_lora_summary(model)
    printed = capsys.readouterr().out
    assert ("[LoRA] Using PEFT library for proper LoRA injection..." in printed) == (backend == "peft")
    stats = get_lora_stats(model)
    share = 100 * stats["trainable_parameters"] / stats["total_parameters"]
    expected = f"[LoRA] Trainable: {stats['trainable_parameters']:,} ({share:.2f}%) | Total: "
    assert expected + f"{stats['total_parameters']:,}" in printed


def test_the_native_backend_does_not_import_peft() -> None:
    code = (
        "import sys; from tests.tiny import make_eomt; from eomt.models.lora_integration import *; "
        "apply_lora(make_eomt(), LoRAConfig(rank=4)); sys.exit('peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


# -- DoRA and PiSSA --------------------------------------------------------------------------------------------------


@variants
def test_a_variant_starts_as_the_base_learns_and_merges(arguments: dict, dtype: torch.dtype, tolerance: float) -> None:
    model = apply_lora(base(dtype), LoRAConfig(freeze_base_model=True, **arguments)).eval()
    assert_same(answer(model), answer(base(dtype)), tolerance)
    before = {name: model.get_parameter(name).detach().clone() for name in adapter_parameters(model)}
    step(model, steps=2)
    assert all(not torch.equal(value, model.get_parameter(name)) for name, value in before.items())
    moved = answer(model)
    assert not torch.allclose(moved, answer(base(dtype)), atol=1e-4)
    assert_same(answer(merge_lora_weights(model)), moved, tolerance)


@variants
def test_a_variant_is_saved_and_opens_here_and_in_peft(
    tmp_path: Path, arguments: dict, dtype: torch.dtype, tolerance: float
) -> None:
    model = adapted(base(dtype), **arguments, trainable_modules=["q"])
    folder = save_adapter(model, tmp_path / "adapter")
    assert_same(answer(load_adapter(base(dtype), folder).eval()), answer(model), tolerance)
    opened = peft.PeftModel.from_pretrained(base(dtype), folder).eval()
    assert_same(answer(opened), answer(model), tolerance)


@variants
def test_a_variant_switched_off_or_removed_is_the_base(arguments: dict, dtype: torch.dtype, tolerance: float) -> None:
    model = adapted(base(dtype), **arguments)
    with disable_adapters(model):
        assert_same(answer(model), answer(base(dtype)), tolerance)
    assert_same(answer(remove_adapters(model)), answer(base(dtype)), tolerance)


@variants
def test_a_variant_resumes_as_if_uninterrupted(arguments: dict, dtype: torch.dtype, tolerance: float) -> None:
    whole = adapted(base(dtype), **arguments)
    step(whole, steps=2)
    resumed = apply_lora(base(dtype), LoRAConfig(freeze_base_model=True, **arguments)).eval()
    fill(resumed, copy.deepcopy(trained_state(whole)), "checkpoint")
    assert_same(answer(resumed), answer(whole), tolerance)


def test_pissa_is_stored_as_plain_lora_of_twice_the_rank(tmp_path: Path) -> None:
    model = adapted(base(torch.float32), **PISSA, rank=4)
    folder = save_adapter(model, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert set(config["rank_pattern"].values()) == {8}
    assert not [name for name in load_file(folder / "adapter_model.safetensors") if "initial" in name]
    with pytest.raises(UserError, match="without lora_config"):
        load_adapter(model, folder)


def test_pissa_restores_its_base_from_a_checkpoint_of_another_machine() -> None:
    """The singular vectors may come out otherwise there; the pair in the checkpoint tells what was taken out."""
    model = adapted(base(torch.float32), **PISSA)
    layer = next(iter(lora_layers(model).values()))
    with torch.no_grad():
        # as if the decomposition had kept half as much there
        original = layer.plain_layer(merge=False).weight
        layer.initial_a.mul_(0.5)
        layer.base_layer.weight.copy_(original - layer.initial_b @ layer.initial_a * layer.scaling["default"])
    other = apply_lora(base(torch.float32), LoRAConfig(freeze_base_model=True, **PISSA)).eval()
    fill(other, copy.deepcopy(trained_state(model)), "checkpoint")
    assert_same(answer(other), answer(model), 1e-4)
    with disable_adapters(other):
        assert_same(answer(other), answer(base(torch.float32)), 1e-4)


def test_pissa_over_bf16_starts_as_the_base_up_to_rounding() -> None:
    model = base().encoder.bfloat16()
    expected = model(make_image())
    apply_lora(model, LoRAConfig(freeze_base_model=True, **PISSA)).eval()
    assert (model(make_image()) - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_dora": True}, "use_dora: true; it needs backend: peft"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa; it needs backend: peft"),
        ({"init_lora_weights": "eva"}, "default or pissa"),
        ({"init_lora_weights": "pissa", "use_dora": True, "backend": "peft"}, "default with use_dora"),
        ({"loraplus_lr_ratio": 0}, "loraplus_lr_ratio"),
    ],
)
def test_combinations_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRAConfig(**arguments)


@pytest.mark.parametrize("settings", [{"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolutions_that_peft_changes_are_refused_there(settings: dict) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, **settings))
    with pytest.raises(UserError, match="PEFT's convolution"):
        apply_lora(model, LoRAConfig(target_modules=["0"], rank=2, backend="peft"))
    assert type(model[0]) is nn.Conv2d
