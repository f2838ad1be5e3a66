"""An image classifier out, as transformers' `AutoModelForImageClassification` opens it."""

from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedConfig,
    ViTConfig,
    ViTForImageClassification,
)

from eomt.models.weights.classifier.names import CLASSIFIER, DINOV2, REGISTERS, VIT, to_hugging_face
from eomt.models.weights.classifier.parts import ClassifierParts, mae_of, vit_of
from eomt.models.weights.files import write_weights
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.images import RGB

CLASSES: dict[str, tuple[Any, Any]] = {
    VIT: (ViTConfig, ViTForImageClassification),
    DINOV2: (Dinov2Config, Dinov2ForImageClassification),
    REGISTERS: (Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification),
}
# fields of a ViT-MAE's configuration that say what its encoder computes
OF_MAE = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("layer_norm_eps", "qkv_bias"),
)
# Pillow's number of the interpolation with which the data modules resize
BILINEAR = 2


def obstacle(network: ClassifierParts) -> str | None:
    """Return why no class of transformers computes what a network does, in words; None where one does."""
    if network.head != "linear":
        return f"head: {network.head}, and its classifiers are linear"
    if network.img_size[0] != network.img_size[1]:
        return f"img_size: {list(network.img_size)}, and its images are squares"
    if network.in_chans != RGB:
        return f"in_chans: {network.in_chans}, and its processors know images of three channels"
    backbone, is_mae = vit_of(network), mae_of(network) is not None
    if backbone is None and not is_mae:
        return f"encoder: {network.encoder.base}, which is none of its ViTs with learned positions"
    name = "" if is_mae else network.encoder.backbone_name
    if backbone is not None and (reason := _other_function(backbone)) is not None:
        return f"backbone_name: {name}: {reason}"
    if network.pooling != "cls" and (backbone is None or _model_type(backbone) == VIT):
        return f"pooling: {network.pooling}, and its ViT gives the class token alone to the classifier"
    config = _config(network)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in CLASSES[config.model_type][1](config).state_dict().items()}
    found = {name: value.shape for name, value in hugging_face_state(network).items()}
    return None if found == expected else f"encoder: {name or 'a ViT-MAE'} has other parts than its classes"


def write_classifier(network: ClassifierParts, folder: Path) -> None:
    """Write a network without adapters, which has no `obstacle`, into a folder that exists.

    `preprocessor_config.json` makes of a photo what the data modules make of it: the short side is resized to the
    network's, and the middle is cut out.
    """
    config = _config(network)
    config.architectures = [CLASSES[config.model_type][1].__name__]
    config.save_pretrained(folder)
    _image_processor(network).save_pretrained(folder)
    write_weights(hugging_face_state(network), folder / WEIGHT_FILES[0])


def hugging_face_state(network: ClassifierParts) -> dict[str, Tensor]:
    """Return the tensors of a network in the names of transformers' class."""
    head, backbone, mae = network.classifier.state_dict(), vit_of(network), mae_of(network)
    if mae is not None:
        state = {f"{VIT}.{name}": value for name, value in mae.state_dict().items()}
    else:
        assert backbone is not None
        model_type = _model_type(backbone)
        state = to_hugging_face(backbone.state_dict(), model_type)
        if model_type != VIT and network.pooling != "cls+mean":
            unseen = torch.zeros_like(head["weight"])
            halves = (head["weight"], unseen) if network.pooling == "cls" else (unseen, head["weight"])
            head["weight"] = torch.cat(halves, 1)
    return state | {CLASSIFIER + name: value for name, value in head.items()}


def _model_type(backbone: VisionTransformer) -> str:
    if backbone.reg_token is not None:
        return REGISTERS
    block: Any = backbone.blocks[0]
    return VIT if isinstance(block.ls1, nn.Identity) else DINOV2


def _other_function(backbone: VisionTransformer) -> str | None:
    """Return what a backbone does that transformers' classes do not; None if there is nothing."""
    block: Any = backbone.blocks[0]
    norms = (block.norm1, block.norm2, backbone.norm)
    if not all(isinstance(norm, nn.LayerNorm) and norm.eps == block.norm1.eps for norm in norms):
        return "has other norms"
    mlp = block.mlp
    if not (type(mlp) is Mlp and type(mlp.act) is nn.GELU and isinstance(mlp.norm, nn.Identity)):
        return "has other MLPs"
    if type(block) is not Block or not isinstance(backbone.norm_pre, nn.Identity):
        return "has other blocks"
    if backbone.cls_token is None or backbone.no_embed_class != (backbone.reg_token is not None):
        return "has other positions"
    return None


def _config(network: ClassifierParts) -> PreTrainedConfig:
    backbone, mae = vit_of(network), mae_of(network)
    names = network.class_names or [f"LABEL_{index}" for index in range(network.num_classes)]
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "multi_label_classification" if network.multi_label else "single_label_classification",
        "image_size": network.img_size[0],
        "patch_size": network.encoder.patch_size,
    }
    if mae is not None:
        return ViTConfig(**labels, **{name: getattr(mae.config, name) for name in OF_MAE})
    assert backbone is not None
    block: Any = backbone.blocks[0]
    sizes: dict[str, Any] = {
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": block.norm1.eps,
        "qkv_bias": block.attn.qkv.bias is not None,
    }
    model_type, width = _model_type(backbone), block.mlp.fc1.out_features
    if model_type == VIT:
        return ViTConfig(**labels, **sizes, intermediate_size=width)
    sizes["mlp_ratio"] = width // backbone.embed_dim
    if model_type == DINOV2:
        return Dinov2Config(**labels, **sizes)
    assert backbone.reg_token is not None
    return Dinov2WithRegistersConfig(**labels, **sizes, num_register_tokens=backbone.reg_token.shape[1])


def _image_processor(network: ClassifierParts) -> BitImageProcessor:
    height, width = network.img_size
    normalize: Any = network.encoder.normalize
    mean, std = normalize.colors
    return BitImageProcessor(
        size={"shortest_edge": height},
        crop_size={"height": height, "width": width},
        resample=BILINEAR,
        do_convert_rgb=True,
        image_mean=mean,
        image_std=std,
    )
