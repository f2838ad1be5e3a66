"""Networks that other libraries wrapped, filled, quantized or took the values of: refused in one line, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from eomt.errors import UserError
from eomt.lora import LoRAConfig, apply_lora, load_adapter, merge_lora_weights, save_adapter
from eomt.lora.summary import lora_summary
from tests.lora.adapters import both


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def config(*targets: str, **arguments: Any) -> LoRAConfig:
    return LoRAConfig(rank=2, target_modules=list(targets), freeze_base_model=True, **arguments)


def refused(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def of_peft() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(plain(), peft.LoraConfig(target_modules=["0"], r=2, use_dora=True))


def injected_by_peft() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"], r=2), plain())


@pytest.mark.parametrize(("make", "kind"), [(of_peft, "PeftModel"), (injected_by_peft, "Linear")])
def test_adapters_of_peft_itself_are_refused(make: Callable[[], nn.Module], kind: str, tmp_path: Path) -> None:
    """16.16: `lora_A` of PEFT is no layer to adapt."""
    refused(lambda: apply_lora(make(), config("all-linear")), f"PEFT's own {kind}; give the network without PEFT")
    refused(lambda: save_adapter(make(), tmp_path / "adapter"), "save_adapter: .* PEFT's own")


def test_the_layers_of_the_backend_are_not_taken_for_peft_itself(tmp_path: Path) -> None:
    """16.16: DoRA of `backend: peft` holds modules of PEFT."""
    pytest.importorskip("peft")
    model = apply_lora(plain(), config("0", backend="peft", use_dora=True))
    load_adapter(model, save_adapter(model, tmp_path / "adapter"))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: nn.ModuleDict({"net": nn.DataParallel(model)})])
def test_wrappers_of_several_processes_are_refused(wrap: Any, tmp_path: Path) -> None:
    """16.16: `module.` would stand in the names of a saved adapter."""
    refused(lambda: apply_lora(wrap(plain()), config("0")), r"wrapped in DataParallel; give .* \(\.module\)")
    adapted = apply_lora(plain(), config("0"))
    refused(lambda: save_adapter(wrap(adapted), tmp_path / "adapter"), "save_adapter: .* wrapped in DataParallel")


class Int8(Tensor):
    """Stands for int8 values, as torchao's does: it claims to be of floating point and supports few operations."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return [], None


def quantize(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Int8), requires_grad=False)


@both
def test_quantized_layers_are_refused(backend: Any) -> None:
    """16.16: torchao's int8 before the adapter, and in merging after it."""
    model = plain()
    quantize(model[0])  # type: ignore[index]
    refused(lambda: apply_lora(model, config("0", backend=backend)), r"'0': its weight is quantized .*\(Int8\)")
    model = apply_lora(plain(), config("0", backend=backend))
    layer = model[0]  # type: ignore[index]
    quantize(layer if backend == "native" else layer.base_layer)
    refused(lambda: merge_lora_weights(model), r"the weight of '0' is quantized .*\(Int8\); save_adapter, and merge")


@both
def test_offloaded_values_are_asked_for(backend: Any, tmp_path: Path) -> None:
    """16.16: accelerate leaves tensors without values in the layers; what the message says brings them back."""
    model = apply_lora(plain(), config("0", backend=backend))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    cpu_offload(model)
    for function in (merge_lora_weights, lambda model: save_adapter(model, tmp_path / "adapter")):
        refused(lambda function=function: function(model), "has no values here .*remove_hook_from_submodules")
    assert not list(tmp_path.iterdir())
    remove_hook_from_submodules(model)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    save_adapter(model, tmp_path / "adapter")


def gpt2() -> GPT2Model:
    return GPT2Model(
        GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=4, bos_token_id=0, eos_token_id=0)
    )


@pytest.mark.parametrize("target", ["c_attn", "attention", "attn", "mlp", "all-linear", "re:.*c_proj"])
def test_the_layers_of_gpt2_are_refused_by_name(target: str) -> None:
    """16.16: its Conv1D is a linear layer with a transposed weight."""
    refused(lambda: apply_lora(gpt2(), config(target)), r"'h\.0\..*': Conv1D of transformers holds its weight transp")


def test_a_layer_of_gpt2_beside_others_is_not_passed_over_in_silence() -> None:
    """16.16: what is left as it is stands in the log."""
    model = apply_lora(nn.ModuleDict({"mlp": nn.Linear(4, 4), "text": gpt2()}), config("mlp"))
    lines = [line for line in lora_summary(model) if "Left as it is: text.h.0.mlp" in line]
    assert len(lines) == 2
    assert all("Conv1D" in line for line in lines)
