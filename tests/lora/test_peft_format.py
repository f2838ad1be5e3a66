"""Names in adapter_config.json mean the same to PEFT, to the reader and to the network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import lora_layers

peft = pytest.importorskip("peft")


class Alike(nn.Module):
    """Modules whose names end alike."""

    def __init__(self, mask_head: nn.Module | None = None) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.mask_head = mask_head or nn.Linear(4, 4)
        self.decoder = nn.Sequential()
        self.decoder.add_module("head", nn.Linear(4, 4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.decoder(self.mask_head(self.head(x).tanh()).tanh()).tanh()
        for block in self.blocks:
            x = block(x).tanh()
        return x


def base(**arguments: Any) -> Alike:
    torch.manual_seed(0)
    return Alike(**arguments).double().eval()


def adapted(model: nn.Module | None = None, **arguments: Any) -> nn.Module:
    config = LoRAConfig(freeze_base_model=True, **{"rank": 2} | arguments)
    model = apply_lora(model or base(), config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model.eval()


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 12, dtype=torch.double).view(3, 4))


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


ALIKE = {
    "target is the end of another path": {"target_modules": ["re:head"]},
    "target is inside another one's name": {"target_modules": ["re:decoder.head", "mask_head"]},
    "rank pattern": {"target_modules": ["head"], "rank_pattern": {"re:head": 1}},
    "alpha pattern": {"target_modules": ["head"], "alpha_pattern": {"re:head": 1}},
    "every path differs": {"target_modules": ["all-linear"], "rank_pattern": {"re:head": 1, "re:mask_head": 3}},
    "trained in full, all that end alike": {
        "target_modules": ["blocks"],
        "trainable_modules": ["head", "mask_head"],
    },
    "a list trained in full": {"target_modules": ["re:head"], "trainable_modules": ["blocks"]},
}


@pytest.mark.parametrize("arguments", ALIKE.values(), ids=ALIKE.keys())
def test_names_that_end_alike_are_told_apart_by_both_readers(tmp_path: Path, arguments: dict) -> None:
    model = adapted(**arguments)
    folder = save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(), folder).eval()
    assert {path: layer.rank for path, layer in lora_layers(loaded).items()} == {
        path: layer.rank for path, layer in lora_layers(model).items()
    }
    assert torch.equal(answer(loaded), answer(model))
    opened = peft.PeftModel.from_pretrained(base(), folder).eval()
    ours = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    assert sum(value.numel() for name, value in opened.named_parameters() if "lora_" in name) == ours
    torch.testing.assert_close(answer(opened), answer(model))
    assert not torch.allclose(answer(model), answer(base()))


def test_targets_stay_a_list_where_no_other_path_ends_alike(tmp_path: Path) -> None:
    folder = save_adapter(adapted(target_modules=["mask_head"], rank_pattern={"mask_head": 1}), tmp_path / "adapter")
    assert read(folder)["target_modules"] == ["mask_head"]
    assert read(folder)["rank_pattern"] == {"^mask_head": 1}


class Named(nn.Module):
    """`head`, and `other` under a name that ends like it."""

    def __init__(self, name: str, other: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.add_module(name, other)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.body(x).tanh()).tanh()
        other = getattr(self, self.name)
        for layer in other if isinstance(other, nn.ModuleList) else [other]:
            x = layer(x)
        return x


def named(name: str, other: nn.Module) -> nn.Module:
    model = Named(name, other)
    for index, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(index))
    return model.double().eval()


def body(inside: str) -> nn.Module:
    block = nn.Sequential()
    block.add_module(inside, nn.Linear(4, 4))
    return block


@pytest.mark.parametrize(
    ("name", "other", "targets"),
    [
        ("mask_head", lambda: nn.Linear(4, 4), ["body", "mask_head"]),
        ("decoder", lambda: body("head"), ["decoder.head"]),
        ("mask_head", lambda: nn.ModuleList([nn.Linear(4, 4)]), ["body"]),
        ("mask_head", lambda: nn.Linear(4, 4), ["body"]),
    ],
)
def test_a_trained_module_that_peft_would_take_for_another_is_refused(
    tmp_path: Path, name: str, other: Any, targets: list[str]
) -> None:
    config = LoRAConfig(rank=2, target_modules=targets, freeze_base_model=True)
    model = apply_lora(named(name, other()), config)
    # resolved by whole names, this is `head` alone
    adaptation(model).trained_in_full.append("head")  # type: ignore[union-attr]
    model.head.requires_grad_(True)
    with pytest.raises(UserError, match=rf"'head' for '{name}"):
        save_adapter(model, tmp_path / "adapter")


def test_a_module_that_ends_alike_without_tensors_is_harmless(tmp_path: Path) -> None:
    model = adapted(named("to_head", nn.Tanh()), target_modules=["body"], trainable_modules=["head"])
    folder = save_adapter(model, tmp_path / "adapter")
    assert read(folder)["modules_to_save"] == ["head"]
    opened = peft.PeftModel.from_pretrained(named("to_head", nn.Tanh()), folder).eval()
    torch.testing.assert_close(answer(opened), answer(model))
    loaded = load_adapter(named("to_head", nn.Tanh()), folder).eval()
    assert adaptation(loaded).trained_in_full == ["head"]  # type: ignore[union-attr]
    assert torch.equal(answer(loaded), answer(model))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential()
        self.model.add_module("layer", nn.Linear(4, 4))
        self.model.add_module("layer2", nn.Linear(4, 4))
        self.model.add_module("head", nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def wrapped() -> nn.Module:
    torch.manual_seed(0)
    return Wrapped().double().eval()


@pytest.fixture
def from_peft(tmp_path: Path) -> tuple[nn.Module, Path]:
    """An adapter made by PEFT with regular expressions in its pattern and a name for the head that is an end of it."""
    config = peft.LoraConfig(
        r=4, target_modules=["layer", "layer2"], modules_to_save=["head"], rank_pattern={r"la\w+r": 1, "layer.*": 2}
    )
    model = peft.get_peft_model(wrapped(), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    model.eval().save_pretrained(tmp_path / "made by peft")
    return model, tmp_path / "made by peft"


def test_pattern_keys_are_regular_expressions_and_the_first_wins(from_peft: tuple[nn.Module, Path]) -> None:
    loaded = load_adapter(wrapped(), from_peft[1]).eval()
    assert {path: layer.rank for path, layer in lora_layers(loaded).items()} == {"model.layer": 1, "model.layer2": 2}
    torch.testing.assert_close(answer(loaded), answer(from_peft[0]))


def test_a_pattern_that_is_no_regular_expression_is_refused(from_peft: tuple[nn.Module, Path]) -> None:
    folder = from_peft[1]
    (folder / "adapter_config.json").write_text(json.dumps(read(folder) | {"rank_pattern": {"(": 2}}))
    with pytest.raises(UserError, match=r"rank_pattern: '\(' is no regular expression"):
        load_adapter(wrapped(), folder)


def test_a_head_named_by_its_end_is_trained_and_saved_again(from_peft: tuple[nn.Module, Path], tmp_path: Path) -> None:
    loaded = load_adapter(wrapped(), from_peft[1])
    assert loaded.get_parameter("model.head.weight").requires_grad
    again = save_adapter(loaded, tmp_path / "again")
    assert "base_model.model.model.head.weight" in load_file(again / "adapter_model.safetensors")
    torch.testing.assert_close(answer(load_adapter(wrapped(), again).eval()), answer(from_peft[0]))


@pytest.mark.parametrize(
    ("lost", "message"), [("model.head.", "'head' in modules_to_save"), ("layer2.", r"layer2\.lora_A")]
)
def test_what_the_config_names_must_be_in_the_file(from_peft: tuple[nn.Module, Path], lost: str, message: str) -> None:
    folder = from_peft[1]
    config = read(folder) | {"target_modules": ["model.layer", "model.layer2"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    path = folder / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if lost not in name}, path)
    with pytest.raises(UserError, match=message):
        load_adapter(wrapped(), folder)
