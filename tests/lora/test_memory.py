"""What autograd keeps of native LoRA in whole networks, and that its gradients are right there."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from benchmarks.lora_layer import fused, make, native
from eomt.lora.adapter_layer import lora_layers, set_module
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.dropout import keep_mask, keep_share
from eomt.lora.layers import SLICES, LoRAAttention, LoRALayer
from eomt.verification.kept import kept_bytes
from tests import tiny, tiny_morph, tiny_sam2
from tests.lora.adapters import assert_same

Make = Callable[[], tuple[nn.Module, Any]]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


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


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side)


def timm_vit(**arguments: Any) -> nn.Module:
    return timm.create_model("test_vit", num_classes=3, img_size=32, patch_size=8, **arguments)


def sam2() -> tuple[nn.Module, Any]:
    points, labels = tiny_sam2.make_points()
    return tiny_sam2.make_sam2((96, 96)), {"image": images(96), "points": points, "labels": labels}


def gated_dinov3() -> transformers.DINOv3ViTConfig:
    return transformers.DINOv3ViTConfig(**SMALL, use_gated_mlp=True, hidden_act="silu", image_size=32)


def bart() -> transformers.BartConfig:
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in BART.items()}
    return transformers.BartConfig(d_model=32, vocab_size=50, **sizes)


BART = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
TEXT = torch.arange(3, 19).view(2, 8)
GIANT = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 4}
SWIGLU = {"use_swiglu_ffn": True, "image_size": 28, "patch_size": 14}
NETWORKS: dict[str, Make] = {
    "timm ViT": lambda: (timm_vit(), images(32)),
    "timm DINOv2 with SwiGLU": lambda: (
        timm.create_model("vit_giant_patch14_dinov2", img_size=28, **GIANT),
        images(28),
    ),
    "HF ViT": lambda: (transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=32)), images(32)),
    "HF DINOv2": lambda: (transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=28)), images(28)),
    "HF DINOv2 with SwiGLU": lambda: (
        transformers.Dinov2Model(transformers.Dinov2Config(**SMALL | SWIGLU)),
        images(28),
    ),
    "HF DINOv3 with a gated MLP": lambda: (transformers.DINOv3ViTModel(gated_dinov3()), images(32)),
    "EoMT": lambda: (tiny.make_eomt(), tiny.make_image()),
    "SAM 2": sam2,
    "MAE": lambda: (tiny_morph.tiny_model(), images(tiny_morph.SIDE)),
    "BART": lambda: (transformers.BartModel(bart()), TEXT),
}
IN_FIRST_BLOCK = ("cross_attn_token_to_image.k_proj", "cross_attn_token_to_image.v_proj")
# inputs that nothing else keeps: of the first layers, before which nothing is trained, and sums with positions
ALONE = {
    "BART": {"encoder.layers.0.self_attn.k_proj", "decoder.layers.0.self_attn.k_proj"},
    # and the image before the first block of the decoder, with and without positions
    "SAM 2": {
        "model.vision_encoder.backbone.blocks.0.attn.qkv",
        *(f"model.mask_decoder.transformer.layers.0.{name}" for name in IN_FIRST_BLOCK),
    },
}


def adapted(name: str, dropout: float = 0.3) -> tuple[nn.Module, Any]:
    """Return a network in training mode with adapters that act, and its input, in float64."""
    torch.manual_seed(0)
    network, batch = NETWORKS[name]()
    config = LoRAConfig(rank=2, lora_dropout=dropout, target_modules=["attention", "mlp"], freeze_base_model=True)
    network = apply_lora(network, config).double().train()
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    return network, batch


def as_loss(output: Any) -> Tensor:
    """Return the sum of the cubes of all real tensors in what a network returns; a norm fixes that of squares."""
    if isinstance(output, Tensor):
        return output.pow(3).sum() if output.is_floating_point() else torch.zeros(())
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else []
    return sum((as_loss(part) for part in parts), start=torch.zeros(()))


def loss_of(network: nn.Module, batch: Any) -> Tensor:
    """Return a loss on which every adapter has an effect."""
    given = batch if isinstance(batch, dict) else {"": batch}
    given = {
        key: value.double() if value.is_floating_point() and key != "points" else value for key, value in given.items()
    }
    output = network(**given) if isinstance(batch, dict) else network(given[""])
    return as_loss(vars(output) if hasattr(output, "__dataclass_fields__") and not isinstance(output, dict) else output)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_a_network_are_those_of_plain_operations(name: str) -> None:
    network, batch = adapted(name)
    plain = copy.deepcopy(network)
    for path, layer in lora_layers(plain).items():
        assert isinstance(layer, LoRALayer)
        set_module(plain, path, PlainLoRA(layer))
    gradients = []
    for model in (network, plain):
        torch.manual_seed(1)
        loss_of(model, batch).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert len(gradients[0]) >= 2 * len(lora_layers(network)) - 4
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        assert_same(gradient, gradients[1][parameter])


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_keep_no_input_but_the_first(name: str) -> None:
    network, batch = adapted(name)
    kept = kept_bytes(network, loss_of(network, batch))
    alone = {path for path, size in kept.of_inputs.items() if size}
    assert len(kept.of_inputs) == len(lora_layers(network))
    assert alone == ALONE.get(name, alone)
    assert len(alone) <= len(ALONE.get(name, {"the first"}))


@pytest.mark.parametrize("way", ["native LoRA, dropout 0", "native LoRA, dropout 0.1"])
def test_a_vit_s_keeps_no_more_than_the_frozen_network_does(way: str) -> None:
    def kept(way: str) -> int:
        network, image = make(fused, way)
        return kept_bytes(network, network(image[:1])).total

    floor = kept("floor: frozen, gradient to the image")
    assert 0.8 * floor < kept(way) <= 1.03 * floor
    assert kept("full fine-tuning") > 1.5 * floor


def test_what_is_kept_is_counted_as_autograd_s_hooks_count_it() -> None:
    network = native(timm_vit(), 0.1).train()
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(images(32))
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    found = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    assert kept_bytes(network, output).total == found
