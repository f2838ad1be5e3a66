"""What the audit costs, and that everything is afterwards as it was."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.verification import audit

pytest.importorskip("peft")
from peft import LoraConfig, get_peft_model

from tests.verification.hugging_face import adapted, images, optimizer_of, vit
from tests.verification.test_any_training import Net, audited, net


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "values": {
            name: value.clone() for name, value in {**model.state_dict(), **dict(model.named_buffers())}.items()
        },
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "flags": {name: value.requires_grad for name, value in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def test_everything_is_as_it_was() -> None:
    class Counting(Net):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)))
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            # another tensor takes the place of the buffer
            self.calls = self.calls + 1
            return super().forward(x)

    torch.manual_seed(0)
    model = get_peft_model(Counting(), LoraConfig(r=2, target_modules=["body"], lora_dropout=0.5))
    model.base_model.model.activation.requires_grad_(True)
    model.base_model.model.head.weight.grad = torch.ones(3, 8)
    model.base_model.model.activation.eval()
    optimizer = optimizer_of(model)
    before, settings = state_of(model), copy.deepcopy(optimizer.state_dict())
    buffer = model.base_model.model.calls
    assert audited(model, optimizers=[optimizer]).is_sound
    after = state_of(model)
    assert model.base_model.model.calls is buffer
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    assert torch.equal(before.pop("random"), after.pop("random"))
    for name in ("flags", "modes", "hooks"):
        assert before[name] == after[name], name
    assert all(value is after["gradients"][name] for name, value in before["gradients"].items())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert optimizer.state_dict() == settings


def test_an_error_in_a_pass_leaves_everything_as_it_was() -> None:
    model = net()
    before = state_of(model)

    def broken(model: nn.Module, batch: Any) -> Tensor:
        model(batch).sum().backward()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        audited(model, loss=broken)
    after = state_of(model)
    assert all(torch.equal(value, after["values"][name]) for name, value in before["values"].items())
    assert all(value is None for value in after["gradients"].values())
    assert not nn.modules.module._global_forward_hooks


def test_the_cost_is_three_forward_and_two_backward_passes() -> None:
    model = adapted(vit())
    forward: list[bool] = []
    backward: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        forward.append(torch.is_grad_enabled())
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(1))

    model.base_model.model.vit.layers[1].attention.q_proj.register_forward_hook(count)
    assert audit(model, images(), optimizers=[optimizer_of(model)], allow_random_base=True).is_sound
    assert sorted(forward) == [False, True, True]
    assert len(backward) == 2


def test_frozen_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    everything = torch.optim.AdamW(model.parameters(), lr=1e-3)
    frozen = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    copied: list[int] = []
    clone = Tensor.clone

    def noted(self: Tensor, *args: Any, **settings: Any) -> Tensor:
        copied.append(self.data_ptr())
        return clone(self, *args, **settings)

    monkeypatch.setattr(Tensor, "clone", noted)
    addresses = {parameter.data_ptr() for parameter in model.parameters() if id(parameter) in frozen}
    assert audited(model, optimizers=[everything]).is_sound
    assert copied
    assert not addresses & set(copied)
