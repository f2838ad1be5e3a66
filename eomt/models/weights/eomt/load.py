"""Weights of a whole EoMT in: this package's files, official ones, and Hugging Face's folders and repositories."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.weights.backbone.names import fit_to
from eomt.models.weights.download import locate, locate_cached
from eomt.models.weights.eomt.names import BACKBONE, EoMTWeights, sort_names
from eomt.models.weights.eomt.settings import Settings, read_own_settings, read_settings
from eomt.models.weights.files import read_weights
from eomt.models.weights.transformers import as_colours
from eomt.utils.loaded import mark_loaded

if TYPE_CHECKING:
    from eomt.models.eomt import EoMT

CLASS_HEAD = ("class_head.weight", "class_head.bias")


def load_eomt(network: "EoMT", source: str, load_class_head: bool) -> None:
    """Fills a network from a file or folder in any layout, or a repository on the hub; positions are resized.

    Its images are normalised from then on as those that the weights were trained with, where the source tells. Masked
    attention stays switched off in a file that does not say otherwise: it was trained to the end. Files are read with
    `weights_only=True`: no code in them is run.

    Args:
        network: its encoder must hold the weights that a file of deltas was trained from.
        load_class_head: false leaves the class head as it is.

    Raises:
        UserError: if there is no such thing, or it is of another backbone, number of queries, blocks or classes.
    """
    path = locate(source)
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
    _check_tensors(state, own, path)
    network.load_state_dict(state, strict=load_class_head)
    mark_loaded(network, state)
    _apply(network, settings, load_class_head)


def classes_in(source: str) -> int | None:
    """The number of classes of an EoMT in a local file or folder, or of a repository in the hub's cache; else None."""
    path = locate_cached(source)
    head = None if path is None else sort_names(read_weights(path)).heads.get("class_head.bias")
    # the last output is "no object"
    return None if head is None else len(head) - 1


def holds_encoder(source: str) -> bool:
    """Whether an EoMT in a file, folder or repository holds its encoder's weights, and not changes to them.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    return not sort_names(read_weights(locate(source))).deltas


def _settings(network: "EoMT", weights: EoMTWeights, path: Path) -> Settings:
    """What goes with these weights, from wherever their layout has it."""
    own = read_own_settings(path)
    if own is not None:
        return own
    if weights.transformers:
        return read_settings(path, network.encoder.colours)
    if weights.colors is None:
        return Settings()
    mean, std = weights.colors
    return Settings(colours=(as_colours(mean), as_colours(std)))


def _apply(network: "EoMT", settings: Settings, load_class_head: bool) -> None:
    encoder = network.encoder
    if settings.layer_norm_eps is not None:
        for module in encoder.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = settings.layer_norm_eps
    if settings.colours is not None:
        for buffer, values in zip((encoder.pixel_mean, encoder.pixel_std), settings.colours, strict=True):
            buffer.copy_(torch.tensor(values).view_as(buffer))
    if load_class_head and settings.class_names and len(settings.class_names) == network.num_classes:
        network.class_names = list(settings.class_names)


def _check_sizes(network: "EoMT", heads: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
    """That queries and blocks are as many as in the file."""
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
    number = network.encoder.blocks[0].attn.num_heads  # type: ignore[union-attr]
    if config.get("num_attention_heads", number) != number:
        raise UserError(
            f"{path}: {config['num_attention_heads']} attention heads, {network.encoder.backbone_name} has {number}; "
            "choose the backbone_name that these weights are of"
        )


def _check_class_head(network: "EoMT", heads: Mapping[str, Tensor], load_class_head: bool, path: Path) -> None:
    if not load_class_head:
        return
    instead = "--model.network.load_class_head false starts a new one"
    if "class_head.bias" not in heads:
        raise UserError(f"{path}: holds no class head; {instead}")
    found = len(heads["class_head.bias"]) - 1
    if found != network.num_classes:
        raise UserError(f"{path}: a class head of {found} classes, but num_classes is {network.num_classes}; {instead}")


def _fit_backbone(network: "EoMT", weights: EoMTWeights, settings: Settings, path: Path) -> dict[str, Tensor]:
    """The backbone's tensors as this network has them."""
    encoder = network.encoder
    state = {name: value.float() for name, value in weights.backbone.items()}
    if weights.hugging_face:
        state = fit_to(encoder.backbone, state, path)
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


def _add_deltas(network: "EoMT", deltas: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
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
    network: "EoMT", positions: Tensor, img_size: tuple[int, int] | None, is_square: bool, path: Path
) -> Tensor:
    """Learned positions (1, prefix + N, D) resampled to the network's grid.

    Args:
        img_size: height and width that they are of, if that is known.
        is_square: whether they are of a square image if they can be; else as many as the network has are of its grid.
    """
    backbone = network.encoder.backbone
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    prefix = backbone.pos_embed.shape[1] - grid[0] * grid[1]  # type: ignore[union-attr]
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
    """What tells backbones apart, for people; empty for a state dict of none."""
    patches = backbone.get("patch_embed.proj.weight")
    if patches is None:
        return ""
    blocks = {int(match[1]) for name in backbone if (match := re.match(r"blocks\.(\d+)\.", name))}
    registers = backbone["reg_token"].shape[1] if "reg_token" in backbone else 0
    return (
        f"{len(blocks)} blocks of width {len(patches)}, patches of {patches.shape[-1]}, {registers} registers "
        f"and {'learned' if 'pos_embed' in backbone else 'rotary'} positions"
    )


def _check_tensors(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """That names and shapes are exactly the network's."""
    for name in sorted(set(own) | set(state)):
        if name not in state or name not in own:
            found = f"lacks {name!r}" if name not in state else f"holds {name!r}, which this network has not"
            raise UserError(f"{path}: {found}; choose the encoder that these weights are of")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{path}: {name!r} has shape {list(state[name].shape)}, this network's has {list(own[name].shape)}; "
                "choose the encoder that these weights are of"
            )
