"""Values of a wrong type from Python are refused in one line that names the argument."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora import (
    LoRAConfig,
    LoRAConv2d,
    LoRALinear,
    adaptation,
    apply_lora,
    count_lora_parameters,
    freeze_lora_params,
    get_lora_stats,
    is_adapter_folder,
    load_adapter,
    merge_lora_weights,
    print_lora_summary,
    replace_linear_with_lora,
    save_adapter,
)
from eomt.lora.apply import apply_lora_to_vit
from eomt.lora.layers import LoRAAttention, disable_adapters, remove_adapters

CONFIG = LoRAConfig(rank=2, target_modules=["0"], freeze_base_model=True)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def adapted() -> nn.Module:
    return apply_lora(plain(), CONFIG)


TAKING_A_MODEL: list[Callable[[Any], object]] = [
    lambda model: apply_lora(model, CONFIG),
    lambda model: apply_lora_to_vit(model, CONFIG),
    lambda model: save_adapter(model, "adapter"),
    lambda model: load_adapter(model, "adapter"),
    lambda model: disable_adapters(model).__enter__(),
    adaptation,
    count_lora_parameters,
    freeze_lora_params,
    get_lora_stats,
    merge_lora_weights,
    print_lora_summary,
    remove_adapters,
    replace_linear_with_lora,
]


@pytest.mark.parametrize("function", TAKING_A_MODEL)
@pytest.mark.parametrize("model", ["model.pt", None, nn.Linear, CONFIG, nn.Linear(30, 30).state_dict()])
def test_what_is_no_module_is_refused(function: Callable[[Any], object], model: Any) -> None:
    with pytest.raises(UserError, match=r"^\w+: (model|module) is .*; must be Module$") as error:
        function(model)
    assert len(str(error.value)) < 300


OTHER_ARGUMENTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: apply_lora(plain(), {"rank": 2}), r"apply_lora: config is \{'rank': 2\} \(dict\); must be LoRACon"),
    (lambda folder: apply_lora(plain(), "lora.yaml"), r"config is 'lora.yaml' \(str\); must be LoRAConfig or None"),
    (lambda folder: save_adapter(adapted(), None), r"save_adapter: folder is None; must be str or Path"),
    (lambda folder: save_adapter(adapted(), folder, base=5), r"save_adapter: base is 5 \(int\); must be str or None"),
    (lambda folder: load_adapter(plain(), 5), r"load_adapter: folder is 5 \(int\); must be str or Path"),
    (lambda folder: load_adapter(plain(), folder, check_base="no"), r"check_base is 'no' \(str\); must be bool"),
    (lambda folder: is_adapter_folder(None), r"is_adapter_folder: path is None"),
    (lambda folder: print_lora_summary(adapted(), {}), r"print_lora_summary: config is \{\} \(dict\)"),
    (lambda folder: replace_linear_with_lora(plain(), rank="8"), r"rank is '8' \(str\); must be int"),
    (lambda folder: replace_linear_with_lora(plain(), lora_alpha=0), r"lora_alpha: 0; must be a number above 0"),
    (lambda folder: LoRALinear(4, 4, lora_alpha="8"), r"lora_alpha: '8'; must be a number above 0"),
    (lambda folder: LoRAConv2d(4, 4, 1, lora_dropout=None), r"lora_dropout: None; must be at least 0"),
    (lambda folder: LoRAAttention(6, 6, rank=True), r"rank: True; must be an integer >= 1"),
]


@pytest.mark.parametrize(("call", "message"), OTHER_ARGUMENTS)
def test_an_argument_of_another_type_is_named(call: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        call(tmp_path)
    assert len(str(error.value)) < 300


def test_what_python_itself_says_of_arguments_stays() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'config'"):
        apply_lora(plain())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'rank'"):
        apply_lora(plain(), CONFIG, rank=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["file/adapter", "file/deeper/adapter", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made \(.*; choose another folder") as error:
        save_adapter(adapted(), tmp_path / name)
    assert len(str(error.value)) < 300
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("network", "target", "message"),
    [
        (nn.Sequential(nn.ReLU()), "all-linear", "inside Sequential is no Linear or Conv2d layer .*; give the network"),
        (nn.Sequential(nn.ReLU()), "attention", "inside Sequential is no Linear or Conv2d layer"),
        (nn.Linear(4, 4), "all-linear", "inside Linear is no Linear or Conv2d layer"),
        (nn.Sequential(nn.Conv2d(3, 3, 1)), "all-linear", "is no Linear layer that LoRA can adapt; name others: 0"),
        # all-linear was proposed
        (nn.Sequential(nn.Conv2d(3, 3, 1)), "attention", "'attention' matches no module; there are: 0$"),
    ],
)
def test_words_that_the_network_has_no_layers_for_are_not_proposed(
    network: nn.Module, target: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        apply_lora(network, LoRAConfig(rank=2, target_modules=[target]))
    assert "nearest: all-linear" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_network_made_in_inference_mode_is_adapted_there_alone() -> None:
    with torch.inference_mode():
        network = plain()
        apply_lora(plain(), CONFIG)
    with pytest.raises(UserError, match=r"model: '0.weight' was made in torch.inference_mode"):
        apply_lora(network, CONFIG)
    assert adaptation(network) is None
