"""Weights of a whole EoMT in: this package's files, official ones, and Hugging Face's folders and repositories."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.weights.backbone.channels import fit_channels
from eomt.models.weights.backbone.names import fit_to
from eomt.models.weights.checks import check_tensors
from eomt.models.weights.colors import as_colors
from eomt.models.weights.download import find_cached_weights, find_weights
from eomt.models.weights.eomt.names import BACKBONE, EoMTWeights, sort_names
from eomt.models.weights.eomt.parts import EoMTParts
from eomt.models.weights.eomt.settings import Settings, read_own_settings, read_settings
from eomt.models.weights.files import read_weights
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE, Wanted

WANTED = Wanted(
    "pretrained",
    "weights of this package, an official pytorch_model.bin, or a folder or repository in Hugging Face layout",
    "--model.network.pretrained",
    is_file=True,
    beside=(CONFIG_FILE, PREPROCESSOR_FILE),
)
CLASS_HEAD = ("class_head.weight", "class_head.bias")


def load_eomt(network: EoMTParts, source: str, load_class_head: bool) -> tuple[list[str], Settings]:
    """Fill a network from a file or folder in any layout, or a repository on the hub; positions are resized.

    The norms of its backbone get the epsilon that the source tells. Masked attention stays switched off in a file that
    does not say otherwise: it was trained to the end. Files are read with `weights_only=True`: no code in them is run.

    Args:
        network: Its encoder must hold the weights that a file of deltas was trained from.
        source: The file, folder or repository.
        load_class_head: False leaves the class head as it is.

    Returns:
        The names of the tensors that were filled, and what the source tells besides: how images are to be normalized,
        and the names of the classes.

    Raises:
        UserError: If there is no such thing, or it is of another backbone, number of queries, blocks or classes.
    """
    path = find_weights(source, WANTED)
    weights = sort_names(read_weights(path))
    settings = _settings(network, weights, path)
    config = settings.config
    heads = {name: value.float() for name, value in weights.heads.items()}
    heads.setdefault("attn_mask_probs", torch.zeros(config.get("num_blocks", network.num_blocks)))
    # 1 before training, so that its delta is -1 when all is annealed
    heads["attn_mask_probs"] = heads["attn_mask_probs"].clamp(0, 1)
    _check_sizes(network, heads, config, path)
    _check_class_head(network, heads, load_class_head, path)
    if not load_class_head:
        heads = {name: value for name, value in heads.items() if name not in CLASS_HEAD}
    backbone = _fit_backbone(network, weights, settings, path)
    state = heads | {BACKBONE + name: value for name, value in backbone.items()}
    own = network.state_dict()
    if not load_class_head:
        own = {name: value for name, value in own.items() if name not in CLASS_HEAD}
    check_tensors(state, own, path, "this network", "choose the encoder that these weights are of")
    network.load_state_dict(state, strict=load_class_head)
    if settings.layer_norm_eps is not None:
        for module in network.encoder.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = settings.layer_norm_eps
    return list(state), settings


def classes_in(source: str) -> int | None:
    """Return the number of classes of an EoMT that is local, or a repository in the hub's cache; else None."""
    path = find_cached_weights(source)
    head = None if path is None else sort_names(read_weights(path)).heads.get("class_head.bias")
    # the last output is "no object"
    return None if head is None else len(head) - 1


def holds_encoder(source: str) -> bool:
    """Return whether an EoMT in a file, folder or repository holds its encoder's weights, and not changes to them.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    return not sort_names(read_weights(find_weights(source, WANTED))).deltas


def _settings(network: EoMTParts, weights: EoMTWeights, path: Path) -> Settings:
    """Return what goes with these weights, from wherever their layout has it."""
    own = read_own_settings(path)
    if own is not None:
        return own
    if weights.transformers:
        return read_settings(path, network.encoder.colors)
    if weights.colors is None:
        return Settings()
    mean, std = weights.colors
    return Settings(colors=(as_colors(mean), as_colors(std)))


def _check_sizes(network: EoMTParts, heads: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    """Check that queries, blocks and heads are as many as in the file."""
    if "q.weight" not in heads:
        raise UserError(
            f"{path}: lacks 'q.weight', so it is no EoMT; a backbone alone goes to --model.network.encoder.pretrained"
        )
    found = {"num_q": len(heads["q.weight"]), "num_blocks": len(heads["attn_mask_probs"])}
    for field, own in (("num_q", network.q.num_embeddings), ("num_blocks", network.num_blocks)):
        if found[field] != own:
            raise UserError(
                f"{field}: {own}, but {path} has {found[field]}; give --model.network.{field} {found[field]}"
            )
    doubled = len({name.split(".")[1] for name in heads if name.startswith("upscale.")})
    if doubled not in (0, len(network.upscale)):
        patch = network.encoder.patch_size
        raise UserError(
            f"{path}: num_upscale_blocks {doubled}, but patches of {patch} take {len(network.upscale)} here; give "
            "weights that were trained with patches of 16, and --model.network.encoder.patch_size 16"
        )
    backbone = network.encoder.backbone
    theta = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta"))
    if theta is not None and isinstance(backbone, Eva) and theta != backbone.rope.temperature:
        raise UserError(
            f"{path}: rope_theta {theta}, {network.encoder.backbone_name} has {backbone.rope.temperature}; choose the "
            "backbone_name that these weights are of"
        )
    block: Any = backbone.blocks[0]
    number = block.attn.num_heads
    if config.get("num_attention_heads", number) != number:
        raise UserError(
            f"{path}: {config['num_attention_heads']} attention heads, {network.encoder.backbone_name} has {number}; "
            "choose the backbone_name that these weights are of"
        )


def _check_class_head(network: EoMTParts, heads: Mapping[str, Tensor], load_class_head: bool, path: Path) -> None:
    """Check that there is a class head of as many classes, if one is to be loaded."""
    if not load_class_head:
        return
    instead = "--model.network.load_class_head false starts a new one"
    if "class_head.bias" not in heads:
        raise UserError(f"{path}: holds no class head; {instead}")
    found = len(heads["class_head.bias"]) - 1
    if found != network.num_classes:
        raise UserError(f"{path}: a class head of {found} classes, but num_classes is {network.num_classes}; {instead}")


def _fit_backbone(network: EoMTParts, weights: EoMTWeights, settings: Settings, path: Path) -> dict[str, Tensor]:
    """Return the backbone's tensors as this network has them."""
    encoder = network.encoder
    state = {name: value.float() for name, value in weights.backbone.items()}
    if weights.hugging_face:
        state = fit_to(encoder.backbone, state, path)
    state = fit_channels(state, encoder.backbone.patch_embed)
    found, own = _describe(state), _describe(encoder.backbone.state_dict())
    if found and found != own:
        raise UserError(
            f"{path}: its backbone has {found}, but {encoder.backbone_name} has {own}; "
            "choose the backbone_name and patch_size that these weights are of"
        )
    if weights.deltas is None:
        raise UserError(
            f"{path}: lacks 'network.encoder.pixel_mean', so that it cannot be told whether it holds the weights of a "
            "DINOv3 or changes to them; give the whole file that the official code saved"
        )
    if weights.deltas:
        return _add_deltas(network, state, path)
    if "pos_embed" in state and encoder.backbone.pos_embed is not None:
        state["pos_embed"] = _resize_positions(network, state["pos_embed"], settings.img_size, weights.foreign, path)
    return state


def _add_deltas(network: EoMTParts, deltas: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the backbone's tensors after these changes to them."""
    if not network.encoder.pretrained:
        raise UserError(
            f"{path}: holds changes to the weights of its backbone; give these too: "
            "--model.network.encoder.pretrained true, or a folder that has them"
        )
    own = network.encoder.backbone.state_dict()
    return {
        name: own[name] + delta if name in own and own[name].shape == delta.shape else delta
        for name, delta in deltas.items()
    }


def _resize_positions(
    network: EoMTParts, positions: Tensor, img_size: tuple[int, int] | None, is_square: bool, path: Path
) -> Tensor:
    """Return learned positions resampled to the network's grid.

    Args:
        network: One with learned positions.
        positions: (1, prefix + N, D).
        img_size: Height and width that they are of, if that is known.
        is_square: Whether they are of a square image if they can be; else as many as the network has are of its grid.
        path: Where they were found, for messages.
    """
    backbone = network.encoder.backbone
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    assert backbone.pos_embed is not None
    prefix = backbone.pos_embed.shape[1] - grid[0] * grid[1]
    number = positions.shape[1] - prefix
    side = math.isqrt(number)
    patch = network.encoder.patch_size
    found = None if img_size is None else (img_size[0] // patch, img_size[1] // patch)
    if found is None or found[0] * found[1] != number:
        if number == grid[0] * grid[1] and not (is_square and side * side == number):
            return positions
        if side * side != number:
            raise UserError(
                f"{path}: its {number} positions are of no square image, which alone are resized; "
                f"give the img_size that it was made for, of {number} patches"
            )
        found = (side, side)
    if found == grid:
        return positions
    return resample_abs_pos_embed(positions, list(grid), list(found), num_prefix_tokens=prefix)


def _describe(backbone: Mapping[str, Tensor]) -> str:
    """Return what tells backbones apart, for people; nothing for a state dict of none."""
    patches = backbone.get("patch_embed.proj.weight")
    if patches is None:
        return ""
    blocks = {int(match[1]) for name in backbone if (match := re.match(r"blocks\.(\d+)\.", name))}
    registers = backbone["reg_token"].shape[1] if "reg_token" in backbone else 0
    return (
        f"{len(blocks)} blocks of width {len(patches)}, patches of {patches.shape[-1]}, {registers} registers "
        f"and {'learned' if 'pos_embed' in backbone else 'rotary'} positions"
    )
