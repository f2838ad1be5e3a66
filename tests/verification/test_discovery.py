"""Adapters are found by what they are, whoever made them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eomt
from eomt.verification import AuditReport, audit
from eomt.verification.discovery import find_adapters


class TorchtuneLinear(nn.Module):
    """The attributes of torchtune's LoRALinear: a weight, and two linear layers beside it."""

    def __init__(self, width: int = 8, rank: int = 2, dora: bool = False) -> None:
        super().__init__()
        self.rank, self.alpha, self.disabled, self.merged = rank, 4.0, False, False
        self.weight = nn.Parameter(torch.randn(width, width) / 3, requires_grad=False)
        self.lora_a, self.lora_b = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.dropout = nn.Identity()
        nn.init.zeros_(self.lora_b.weight)
        if dora:
            self.magnitude = nn.Parameter(self.weight.norm(dim=1).clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.disabled:
            return x @ self.weight.T
        y = x @ self.weight.T + self.alpha / self.rank * self.lora_b(self.lora_a(x))
        return y * (self.magnitude / self.weight.norm(dim=1)) if hasattr(self, "magnitude") else y


class LoralibLinear(nn.Linear):
    """The attributes of loralib's Linear: a pair of parameters; it merges itself in evaluation mode."""

    def __init__(self, width: int = 8, rank: int = 2) -> None:
        super().__init__(width, width)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(rank, width)), nn.Parameter(torch.zeros(width, rank))
        self.scaling, self.merge_weights, self.merged = 0.5, True, False
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def train(self, mode: bool = True) -> "LoralibLinear":
        super().train(mode)
        if getattr(self, "merge_weights", False) and self.merged == mode:
            sign = -1 if mode else 1
            self.weight.data += sign * self.scaling * self.lora_B.data @ self.lora_A.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.merged else y + self.scaling * x @ self.lora_A.T @ self.lora_B.T


class Down(nn.Module):
    """A projection down and one up, as in diffusers' first LoRA layers."""

    def __init__(self, names: tuple[str, str], width: int = 8, rank: int = 2) -> None:
        super().__init__()
        self.names = names
        setattr(self, names[0], nn.Linear(width, rank, bias=False))
        setattr(self, names[1], nn.Linear(rank, width, bias=False))
        nn.init.zeros_(getattr(self, names[1]).weight)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.names[1])(getattr(self, self.names[0])(x))


class Beside(nn.Module):
    """A frozen layer and a module with a pair."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.inner, self.lora_layer = nn.Linear(8, 8).requires_grad_(False), Down((names[0], names[1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.lora_layer(x)


class Factors(nn.Module):
    """x W + x A B, of names that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 8) / 3, requires_grad=False)
        self.one, self.two = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel.T + x @ self.one @ self.two


KINDS: dict[str, Any] = {
    "torchtune": TorchtuneLinear,
    "torchtune, DoRA": lambda: TorchtuneLinear(dora=True),
    "loralib": LoralibLinear,
    "diffusers": lambda: Beside("lora_down", "lora_up"),
    "unnamed layers": lambda: Beside("reduce", "expand"),
    "unnamed factors": Factors,
}


def model_of(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(KINDS[kind](), nn.Tanh(), KINDS[kind](), nn.Linear(8, 3).requires_grad_(False))


def square(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).square().mean()


def audited(model: nn.Module, **settings: Any) -> AuditReport:
    return audit(model, torch.randn(4, 8), **{"loss": square, "allow_random_base": True, **settings})


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_adapters_of_any_library_are_found_and_passed(kind: str) -> None:
    model = model_of(kind)
    found = find_adapters(model)
    assert len(found) == 2
    assert all(adapter.rank == 2 for adapter in found)
    assert all(adapter.base is not None for adapter in found) or kind == "diffusers"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    report = audited(model, optimizers=[optimizer])
    assert report.findings == (), report.describe()
    assert len(report.adapters) == 2
    assert report.trained_in_full == ()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_cut_off_is_found_in_any_library(kind: str) -> None:
    model = model_of(kind)
    model[1].register_forward_hook(lambda module, inputs, output: output.detach())
    report = audited(model)
    assert {finding.kind for finding in report.findings} == {"unreached"}
    assert len(report.faults) == 1


def test_disabled_and_merged_layers_are_named() -> None:
    model = model_of("torchtune")
    model[0].disabled, model[2].merged = True, True
    assert [finding.kind for finding in audited(model).findings][:2] == ["disabled", "merged"]


def test_an_mlp_beside_a_frozen_layer_is_no_pair() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(8, 8).requires_grad_(False)
            self.squeeze = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))

    assert find_adapters(Gated()) == []


def test_a_trained_head_beside_a_frozen_body_is_no_pair() -> None:
    model = nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 3))
    assert find_adapters(model) == []
    report = audited(model)
    assert report.is_sound
    assert report.trained_in_full == ("2",)


def test_this_package_and_peft_are_found_alike() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig, inject_adapter_in_model

    def plain() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))

    own = eomt.apply_lora(plain(), eomt.LoRAConfig(rank=2, lora_alpha=4, target_modules=["all-linear"]))
    theirs = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=4, target_modules=["0", "1"]), plain())
    backend = eomt.apply_lora(
        plain(), eomt.LoRAConfig(rank=2, lora_alpha=4, target_modules=["all-linear"], backend="peft")
    )
    rows = [
        [(adapter.path, adapter.rank, adapter.factor, [tuple(p.shape) for p in adapter.pair]) for adapter in found]
        for found in map(find_adapters, (own, theirs, backend))
    ]
    assert rows[0] == rows[1] == rows[2]
    assert math.isclose(rows[0][0][2], 2.0)


def test_several_adapters_of_peft_are_told_apart() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(nn.Linear(8, 6)), LoraConfig(r=2, target_modules=["0"]))
    model.add_adapter("other", LoraConfig(r=3, target_modules=["0"]))
    found = {adapter.name: (adapter.rank, adapter.idle) for adapter in find_adapters(model)}
    assert found == {"default": (2, ""), "other": (3, "inactive")}
    model.set_adapter("other")
    assert {adapter.name: adapter.idle for adapter in find_adapters(model)} == {"default": "inactive", "other": ""}
    assert audit(model, torch.randn(4, 8), square, allow_random_base=True).is_sound
