"""A plain EoMT out, in the layout of transformers' classes where they compute the same."""

from pathlib import Path
from typing import Any

import torch
from timm.layers import GluMlp, Mlp
from timm.models.eva import Eva
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    PreTrainedConfig,
)

from eomt.models.weights.backbone.names import without_class_position
from eomt.models.weights.eomt.names import BACKBONE, eomt_to_hugging_face
from eomt.models.weights.eomt.parts import EoMTParts
from eomt.models.weights.eomt.settings import Settings, metadata_of
from eomt.models.weights.files import write_weights
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.images import RGB

# of the loss, which is no part of the network here
LOSS_WEIGHTS = "criterion.empty_weight"


def write_eomt(network: EoMTParts, folder: Path) -> None:
    """Write a network without adapters into a folder that exists: `EoMT(pretrained=folder)` gives the same answers.

    In Hugging Face layout, with a config.json and a preprocessor_config.json, where transformers' EoMT with DINOv2 or
    DINOv3 computes the same; else its own state dict, with what goes with it in the file's metadata.
    """
    config = hugging_face_config(network)
    settings = own_settings(network)
    if config is None:
        write_weights(network.state_dict(), folder / WEIGHT_FILES[0], metadata_of(settings))
        return
    config.save_pretrained(folder)
    _image_processor(settings, network.pads_images).save_pretrained(folder)
    write_weights(hugging_face_state(network, config), folder / WEIGHT_FILES[0])


def own_settings(network: EoMTParts) -> Settings:
    """Return what no tensor of `network` tells."""
    encoder = network.encoder
    epsilons = {module.eps for module in encoder.backbone.modules() if isinstance(module, nn.LayerNorm)}
    # several are as timm made them: files know one
    epsilon = epsilons.pop() if len(epsilons) == 1 else None
    return Settings(epsilon, network.img_size, encoder.colors, network.class_names)


def _image_processor(settings: Settings, pads_images: bool) -> EomtImageProcessor:
    """Return transformers', which prepares images.

    For semantic segmentation: short side resized, then square windows along the long one. For objects and segments:
    long side resized, then padded.
    """
    assert settings.img_size is not None
    assert settings.colors is not None
    mean, std = settings.colors
    side = settings.img_size[0]
    size = {"shortest_edge": side} | ({"longest_edge": side} if pads_images else {})
    return EomtImageProcessor(
        image_mean=mean, image_std=std, size=size, do_split_image=not pads_images, do_pad=pads_images
    )


def hugging_face_config(network: EoMTParts) -> PreTrainedConfig | None:
    """Return the configuration with which transformers' class computes the same as `network`, None without one."""
    if not _fits(network):
        return None
    backbone = network.encoder.backbone
    block: Any = backbone.blocks[0]
    hidden: int = block.mlp.fc2.in_features
    fields: dict[str, Any] = {
        "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks),
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": block.norm1.eps,
        "image_size": network.img_size[0],
        "patch_size": network.encoder.patch_size,
        "num_upscale_blocks": len(network.upscale),
        "num_blocks": network.num_blocks,
        "num_queries": network.q.num_embeddings,
        "num_register_tokens": 0 if backbone.reg_token is None else backbone.reg_token.shape[1],
        "num_labels": network.num_classes,
    }
    if network.class_names is not None:
        assert len(network.class_names) == network.num_classes
        fields["id2label"] = dict(enumerate(network.class_names))
        fields["label2id"] = {name: index for index, name in enumerate(network.class_names)}
    config: PreTrainedConfig
    if isinstance(backbone, Eva):
        has_bias = block.attn.q_bias is not None
        config = EomtDinov3Config(
            **fields,
            intermediate_size=hidden,
            query_bias=has_bias,
            value_bias=has_bias,
            # positions are not augmented in training
            pos_embed_rescale=None,
        )
    else:
        gated = isinstance(block.mlp, GluMlp)
        # a gated MLP has two thirds of that width, in steps of 8
        ratio = 4 if gated else hidden // backbone.embed_dim
        config = EomtConfig(**fields, use_swiglu_ffn=gated, mlp_ratio=ratio)
    model_class: Any = EomtDinov3ForUniversalSegmentation if isinstance(backbone, Eva) else EomtForUniversalSegmentation
    config.architectures = [model_class.__name__]
    with torch.device("meta"):
        expected = {name: value.shape for name, value in model_class(config).state_dict().items()}
    found = {name: value.shape for name, value in hugging_face_state(network, config).items()}
    return config if found == expected else None


def hugging_face_state(network: EoMTParts, config: PreTrainedConfig) -> dict[str, Tensor]:
    """Return the tensors of `network` in the names of transformers' class.

    Masked attention is on or off there: what is less than one half here is 0.
    """
    heads = {name: value for name, value in network.state_dict().items() if not name.startswith(BACKBONE)}
    heads["attn_mask_probs"] = _masked(network).float()
    backbone = without_class_position(network.encoder.backbone.state_dict(), network.encoder.backbone)
    weights = torch.ones(network.num_classes + 1)
    weights[-1] = config.no_object_weight
    return eomt_to_hugging_face(heads, backbone, isinstance(network.encoder.backbone, Eva)) | {LOSS_WEIGHTS: weights}


def _fits(network: EoMTParts) -> bool:
    """Return whether no function in it is another than in transformers' class; shapes are compared later."""
    height, width = network.img_size
    masked = _masked(network).tolist()
    backbone = network.encoder.backbone
    if height != width or network.encoder.in_chans != RGB or masked != sorted(masked):
        # transformers' processor knows no other images, and it goes on with the mask of a block where the next has none
        return False
    block: Any = backbone.blocks[0]
    if not all(isinstance(norm, nn.LayerNorm) and norm.eps == block.norm1.eps for norm in (block.norm2, backbone.norm)):
        return False
    if isinstance(backbone, Eva):
        # with gates, transformers gives the heads the gate's activation too
        return isinstance(block.mlp, Mlp)
    mlp = block.mlp
    activation = nn.SiLU if isinstance(mlp, GluMlp) else nn.GELU
    plain = isinstance(mlp, GluMlp | Mlp) and type(mlp.act) is activation and isinstance(mlp.norm, nn.Identity)
    return type(block) is Block and plain and isinstance(backbone.norm_pre, nn.Identity)


def _masked(network: EoMTParts) -> Tensor:
    """Return for each block whether its attention is masked in evaluation."""
    return (network.attn_mask_probs >= 0.5) & network.masked_attn_enabled
