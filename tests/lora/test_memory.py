"""What autograd keeps of native LoRA with dropout, in a whole network, and that its gradients are right there."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.lora_layer import fused, kept_bytes, native
from eomt.lora.adapter_layer import lora_layers, set_module
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.dropout import keep_mask, keep_share
from eomt.lora.layers import SLICES, LoRAAttention, LoRALayer
from tests.lora.adapters import assert_same


def test_dropout_keeps_hardly_more_than_none_on_vit_s() -> None:
    plain = fused()
    image = torch.randn(1, 3, 224, 224)
    kept = [kept_bytes(native(copy.deepcopy(plain), dropout).train(), image) for dropout in (0.0, 0.1)]
    assert kept[0] > 0
    assert kept[1] <= 1.1 * kept[0]


class PlainLoRA(nn.Module):
    """W x + s B A (mask * x), in autograd's own operations, with the mask that the layer's seed draws."""

    def __init__(self, layer: LoRALayer) -> None:
        super().__init__()
        self.weight, self.bias, self.lora_a, self.lora_b = layer.weight, layer.bias, layer.lora_a, layer.lora_b
        self.dropout, self.scaling = layer.lora_dropout, layer.scaling
        self.slices = layer.slices if isinstance(layer, LoRAAttention) else None

    def forward(self, x: Tensor) -> Tensor:
        # drawn as the layer draws it
        seed = int(torch.randint(2**62, ()))
        dropped = x * keep_mask(x, self.dropout, seed) / keep_share(self.dropout)
        y = F.linear(x, self.weight, self.bias)
        if self.slices is None:
            return y + self.scaling * (dropped @ self.lora_a.T @ self.lora_b.T)
        parts = list(y.chunk(3, -1))
        for a, b, name in zip(self.lora_a, self.lora_b, self.slices, strict=True):
            parts[SLICES.index(name)] = parts[SLICES.index(name)] + self.scaling * (dropped @ a.T @ b.T)
        return torch.cat(parts, -1)


@pytest.mark.parametrize("targets", [["attention", "mlp"], ["query", "value", "fc2"]])
def test_gradients_in_a_network_are_those_of_plain_operations(targets: list[str]) -> None:
    network = timm.create_model("test_vit", num_classes=3, img_size=32, patch_size=8)
    config = LoRAConfig(rank=3, lora_dropout=0.3, target_modules=targets, freeze_base_model=True)
    network = apply_lora(network, config).double().train()
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_b)
    plain = copy.deepcopy(network)
    for path, layer in lora_layers(plain).items():
        assert isinstance(layer, LoRALayer)
        set_module(plain, path, PlainLoRA(layer))
    image = torch.randn(2, 3, 32, 32, dtype=torch.double)
    gradients = []
    for model in (network, plain):
        torch.manual_seed(1)
        model(image).square().sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert len(gradients[0]) == 2 * len(lora_layers(network))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_same(gradient, gradients[1][name])
