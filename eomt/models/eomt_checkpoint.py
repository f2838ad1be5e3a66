"""Weights of a whole EoMT in: this package's files, official ones, and Hugging Face's folders and repositories."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.adapter_io import mark_loaded
from eomt.models.backbone_names import fit_to
from eomt.models.eomt_names import BACKBONE, EoMTWeights, sort_names
from eomt.models.pretrained import WEIGHT_FILES, read_weights, require_hub

if TYPE_CHECKING:
    from eomt.models.eomt import EoMT

CONFIG_FILE = "config.json"
MODEL_TYPES = ("eomt", "eomt_dinov3")
CLASS_HEAD = ("class_head.weight", "class_head.bias")


def load_eomt(network: EoMT, source: str, load_class_head: bool) -> None:
    """Fills a network from a file or folder in any layout, or a repository on the hub; positions are resized.

    Read with `weights_only=True`: no code in a file is run. Masked attention stays switched off in a file that does
    not say otherwise: it was trained to the end.

    Args:
        network: its encoder must hold the weights that a file of deltas was trained from.
        load_class_head: false leaves the class head as it is.

    Raises:
        UserError: if there is no such thing, or it is of another backbone, number of queries, blocks or classes.
    """
    path = locate(source)
    weights, config = sort_names(read_weights(path)), read_config(path)
    heads = {name: value.float() for name, value in weights.heads.items()}
    heads.setdefault("attn_mask_probs", torch.zeros(config.get("num_blocks", network.num_blocks)))
    # 1 before training, so that its delta is -1 when all is annealed
    heads["attn_mask_probs"] = heads["attn_mask_probs"].clamp(0, 1)
    _check_sizes(network, heads, config, path)
    _check_class_head(network, heads, load_class_head, path)
    if not load_class_head:
        heads = {name: value for name, value in heads.items() if name not in CLASS_HEAD}
    backbone = _fit_backbone(network, weights, config, path)
    state = heads | {BACKBONE + name: value for name, value in backbone.items()}
    own = network.state_dict()
    if not load_class_head:
        own = {name: value for name, value in own.items() if name not in CLASS_HEAD}
    _check_tensors(state, own, path)
    network.load_state_dict(state, strict=load_class_head)
    mark_loaded(network, state)


def classes_in(source: str) -> int | None:
    """The number of classes of an EoMT in a local file or folder, None if it holds none."""
    path = Path(source).expanduser()
    if not path.is_file() and not any((path / name).is_file() for name in WEIGHT_FILES):
        return None
    head = sort_names(read_weights(path)).heads.get("class_head.bias")
    # the last output is "no object"
    return None if head is None else len(head) - 1


def holds_encoder(source: str) -> bool:
    """Whether an EoMT in a local file or folder holds its encoder's weights, and not changes to them."""
    path = Path(source).expanduser()
    return path.exists() and not sort_names(read_weights(path)).deltas


def locate(source: str) -> Path:
    """A local file or folder, or that of a repository in the hub's cache.

    Raises:
        UserError: if there is none, or the hub has none.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".safetensors") or not re.fullmatch(
        r"[\w-][\w.-]*/[\w-][\w.-]*", source
    ):
        raise UserError(
            f"pretrained: {source!r} is no file or folder; give weights of this package, an official "
            "pytorch_model.bin, or a folder or repository in Hugging Face layout"
        )
    require_hub(source, "--model.network.pretrained")
    try:
        for name in WEIGHT_FILES:
            try:
                file = Path(hf_hub_download(source, name))
            except EntryNotFoundError:
                continue
            try:
                hf_hub_download(source, CONFIG_FILE)
            except EntryNotFoundError:
                return file
            return file.parent
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"pretrained: {source!r} is no local file or folder and cannot be had from the hub ({reason}); "
            "give a local one: --model.network.pretrained PATH"
        ) from error
    raise UserError(f"pretrained: {source!r} holds neither {' nor '.join(WEIGHT_FILES)}; give another repository")


def read_config(path: Path) -> dict[str, Any]:
    """The fields of an EoMT's config.json in a folder of Hugging Face layout; empty without one.

    Raises:
        UserError: if it cannot be read, or is of another family.
    """
    file = path / CONFIG_FILE
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is no configuration of a model ({type(error).__name__}); copy it again") from error
    found = fields.get("model_type") if isinstance(fields, dict) else None
    if found not in MODEL_TYPES:
        raise UserError(f"{file}: model_type {found!r}, must be {' or '.join(MODEL_TYPES)}")
    if fields.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{file}: hidden_act {fields['hidden_act']!r}, EoMT's heads are made with 'gelu'")
    return fields


def _check_sizes(network: EoMT, heads: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> None:
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
    number = network.encoder.blocks[0].attn.num_heads  # type: ignore[union-attr]
    if config.get("num_attention_heads", number) != number:
        raise UserError(
            f"{path}: {config['num_attention_heads']} attention heads, {network.encoder.backbone_name} has {number}; "
            "choose the backbone_name that these weights are of"
        )


def _check_class_head(network: EoMT, heads: Mapping[str, Tensor], load_class_head: bool, path: Path) -> None:
    if not load_class_head:
        return
    instead = "--model.network.load_class_head false starts a new one"
    if "class_head.bias" not in heads:
        raise UserError(f"{path}: holds no class head; {instead}")
    found = len(heads["class_head.bias"]) - 1
    if found != network.num_classes:
        raise UserError(f"{path}: a class head of {found} classes, but num_classes is {network.num_classes}; {instead}")


def _fit_backbone(network: EoMT, weights: EoMTWeights, config: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
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
    if "layer_norm_eps" in config:
        for module in encoder.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config["layer_norm_eps"]
    if weights.deltas:
        return _add_deltas(network, state, path)
    if "pos_embed" in state and encoder.backbone.pos_embed is not None:
        state["pos_embed"] = _resize_positions(network, state["pos_embed"], weights.foreign, path)
    return state


def _add_deltas(network: EoMT, deltas: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
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


def _resize_positions(network: EoMT, positions: Tensor, is_square: bool, path: Path) -> Tensor:
    """Learned positions (1, prefix + N, D) resampled to the network's grid.

    Args:
        is_square: whether they are known to be of a square image; else as many as the network has are of its grid.
    """
    backbone = network.encoder.backbone
    grid: tuple[int, int] = backbone.patch_embed.grid_size
    prefix = backbone.pos_embed.shape[1] - grid[0] * grid[1]  # type: ignore[union-attr]
    number = positions.shape[1] - prefix
    side = math.isqrt(number)
    if (number == grid[0] * grid[1] and not is_square) or (side, side) == grid:
        return positions
    if side * side != number:
        raise UserError(
            f"{path}: its {number} positions are of no square image, which alone are resized; "
            f"give the img_size that it was made for, of {number} patches"
        )
    return resample_abs_pos_embed(positions, list(grid), [side, side], num_prefix_tokens=prefix)


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
