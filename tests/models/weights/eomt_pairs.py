"""EoMTs of this package and of transformers that hold the same random weights, on backbones of three narrow blocks."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    PreTrainedModel,
)

from eomt.models import EoMT, ViT
from eomt.models.weights.backbone.names import Backbone

BACKBONES = {
    "dinov2": "vit_small_patch14_reg4_dinov2",
    "gated": "vit_giant_patch14_reg4_dinov2",
    "dinov3": "vit_tiny_patch16_dinov3_qkvb",
}
NUM_CLASSES, NUM_QUERIES, NUM_BLOCKS, SIDE, NUM_POINTS = 5, 6, 2, 48, 64
DEPTH, WIDTH, NUM_HEADS = 3, 64, 2


class SmallViT(ViT):
    """timm's architecture of a name at a size of our own."""

    def _create(self, from_hub: bool, **arguments: Any) -> Backbone:
        if "giant" in self.backbone_name:
            # two thirds of four times the width, for gate and value, in steps of 8 as transformers has it
            arguments["mlp_ratio"] = 2 * 176 / WIDTH
        return super()._create(from_hub, depth=DEPTH, embed_dim=WIDTH, num_heads=NUM_HEADS, **arguments)


def make_encoder(kind: str = "dinov2", img_size: tuple[int, int] = (SIDE, SIDE), **arguments: object) -> ViT:
    """A backbone by its kind or its timm name, patch 16."""
    name = BACKBONES.get(kind, kind)
    settings: dict = {"pretrained": False, "patch_size": None if "patch16" in name else 16} | arguments
    return SmallViT(name, img_size, **settings)


def make_network(
    kind: str = "dinov2", img_size: tuple[int, int] = (SIDE, SIDE), encoder: ViT | None = None, **arguments: object
) -> EoMT:
    settings: dict = {"num_classes": NUM_CLASSES, "num_q": NUM_QUERIES, "num_blocks": NUM_BLOCKS} | arguments
    return EoMT(encoder or make_encoder(kind, img_size), **settings)


def make_transformers(kind: str = "dinov2", **fields: object) -> PreTrainedModel:
    """transformers' model with random weights, eager attention; `fields` of its configuration."""
    shared: dict = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": NUM_HEADS,
        "image_size": SIDE,
        "patch_size": 16,
        "num_blocks": NUM_BLOCKS,
        "num_queries": NUM_QUERIES,
        "num_labels": NUM_CLASSES,
        "train_num_points": NUM_POINTS,
        "attn_implementation": "eager",
    }
    if kind == "dinov3":
        # without the augmentation of positions in training
        shared |= {"intermediate_size": 4 * WIDTH, "layer_norm_eps": 1e-5, "pos_embed_rescale": None}
        model = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**shared | fields))
    else:
        model = EomtForUniversalSegmentation(EomtConfig(**{"use_swiglu_ffn": kind == "gated"} | shared | fields))
    return randomize(model)


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random and large enough to matter; norms about 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        std = 0.3 if parameter.dim() == 1 else 0.08
        nn.init.normal_(parameter, std=std, generator=generator)
        if name.endswith("weight") and "norm" in name:
            parameter.data.add_(1)
    return network


def save(model: PreTrainedModel, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def make_batch(side: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalized(image: Tensor, network: EoMT) -> Tensor:
    """What transformers' models take."""
    return (image / 255 - network.encoder.normalize.mean) / network.encoder.normalize.std


def official(network: EoMT, model: PreTrainedModel | None = None) -> dict[str, Tensor]:
    """The state dict that the official code saves of `network`; with transformers' DINOv3 inside for `model`."""
    state: dict[str, Tensor] = {"criterion.empty_weight": torch.ones(NUM_CLASSES + 1)}
    for name, value in network.state_dict().items():
        if model is not None and name.startswith("encoder."):
            continue
        if name.endswith(".conv1.weight"):
            dim = value.shape[1]
            value = value.view(dim, 2, 2, dim).permute(3, 0, 1, 2).contiguous()
        if name.startswith("upscale.") and name.count(".") == 2 and name.endswith(".bias"):
            name = name.replace(".bias", ".conv1.bias")
        state[f"network.{name}"] = value
    state["network.encoder.pixel_mean"] = network.encoder.normalize.mean
    state["network.encoder.pixel_std"] = network.encoder.normalize.std
    parts = (("embeddings.", "patch_embed."), ("layers.", "blocks."), ("layernorm.", "norm."))
    for name, value in (model.state_dict() if model is not None else {}).items():
        for theirs, moved in parts:
            if name.startswith(theirs):
                state["network.encoder.backbone." + moved + name.removeprefix(theirs)] = value
    return state
