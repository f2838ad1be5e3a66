"""Names of a backbone's tensors: timm's, in which it runs here, and Hugging Face's, in which many files are.

DINOv2 and DINOv3 differ in both: timm writes a layer scale of DINOv2 `ls1.gamma` and one of DINOv3 `gamma_1`.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eomt.errors import UserError
from eomt.models.weights.renaming import RenamingTable

Backbone = VisionTransformer | Eva

PREFIX = re.compile(r"^(dinov2(_with_registers)?|dinov3_vit|vit|model|backbone)\.")
# what training code holds a backbone in, and its other parts
HOLDERS = ("backbone.", "model.", "encoder.")
HEADS = ("head.", "fc_norm.", "dino_head.", "ibot_head.", "classifier.", "pooler.")
# DINOv2's training keeps blocks in chunks, by their number in the whole: blocks.<chunk>.<number>
CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
# On the left timm's names. On the right first those of transformers' EoMT classes, which are written; then those of all
# versions of transformers whose files are about, and of the official EoMT, where a DINOv3 has timm's `patch_embed` and
# `blocks`.
EMBEDDINGS, BLOCK = "(embeddings|patch_embed)", "(layers|layer|model.layer|encoder.layer|encoder.layers|blocks).#"
ATTENTION = f"{BLOCK}.attention(|.attention)"
QUERY, KEY, VALUE = f"{ATTENTION}.(q_proj|query)", f"{ATTENTION}.(k_proj|key)", f"{ATTENTION}.(v_proj|value)"
SHARED = f"""
cls_token              {EMBEDDINGS}.cls_token
mask_token             {EMBEDDINGS}.mask_token
reg_token              {EMBEDDINGS}.register_tokens
pos_embed              {EMBEDDINGS}.position_embeddings(.weight|)
norm                   layernorm
blocks.#.norm1         {BLOCK}.(norm1|layernorm_before)
blocks.#.norm2         {BLOCK}.(norm2|layernorm_after)
"""
DINOV2 = f"""
patch_embed.proj       {EMBEDDINGS}.patch_embeddings.projection
blocks.#.attn.qkv      {QUERY} + {KEY} + {VALUE}
blocks.#.attn.proj     {BLOCK}.attention.(out_proj|o_proj|output.dense)
blocks.#.ls#.gamma     {BLOCK}.layer_scale#.lambda1
"""
DINOV2_MLP = f"""
blocks.#.mlp.fc1       {BLOCK}.(mlp.fc1|mlp.weights_in|intermediate.dense)
blocks.#.mlp.fc2       {BLOCK}.(mlp.fc2|mlp.weights_out|mlp.down_proj|output.dense)
"""
DINOV2_GATED_MLP = f"""
blocks.#.mlp.fc1       {BLOCK}.mlp.gate_proj + {BLOCK}.mlp.up_proj
blocks.#.mlp.fc2       {BLOCK}.mlp.(down_proj|weights_out)
"""
DINOV3 = f"""
patch_embed.proj       {EMBEDDINGS}.patch_embeddings
blocks.#.attn.qkv.weight  {QUERY}.weight + {KEY}.weight + {VALUE}.weight
blocks.#.attn.q_bias   {QUERY}.bias
blocks.#.attn.v_bias   {VALUE}.bias
blocks.#.attn.proj     {BLOCK}.attention.(o_proj|out_proj|output.dense)
blocks.#.gamma_#       {BLOCK}.layer_scale#.lambda1
blocks.#.mlp.fc2       {BLOCK}.mlp.(down_proj|weights_out)
"""
DINOV3_MLP = f"""
blocks.#.mlp.fc1       {BLOCK}.mlp.up_proj
"""
DINOV3_GATED_MLP = f"""
blocks.#.mlp.fc1_g     {BLOCK}.mlp.gate_proj
blocks.#.mlp.fc1_x     {BLOCK}.mlp.up_proj
"""
# by whether positions are rotary, as in DINOv3, and whether MLPs are gated
TABLES = {
    (False, False): RenamingTable(SHARED + DINOV2 + DINOV2_MLP),
    (False, True): RenamingTable(SHARED + DINOV2 + DINOV2_GATED_MLP),
    (True, False): RenamingTable(SHARED + DINOV3 + DINOV3_MLP),
    (True, True): RenamingTable(SHARED + DINOV3 + DINOV3_GATED_MLP),
}
# how DINOv3 names the weights of its patches; DINOv2 has a `projection` below
ROTARY = ("embeddings.patch_embeddings.weight", "patch_embed.patch_embeddings.weight")


def without_holders(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under the names that a backbone has by itself; names of heads stay."""
    found = dict(state)
    while (holder := _holder_of(found)) is not None:
        found = {name.removeprefix(holder): value for name, value in found.items()}
    return {CHUNK.sub("blocks.", name): value for name, value in found.items()}


def _holder_of(names: Iterable[str]) -> str | None:
    """Return with which of `HOLDERS` all names but those of heads begin, None if with none."""
    others = [name for name in names if not name.startswith(HEADS)]
    return next((holder for holder in HOLDERS if others and all(name.startswith(holder) for name in others)), None)


def is_hugging_face(names: Iterable[str]) -> bool:
    """Return whether some names are of a DINOv2 or DINOv3 of Hugging Face."""
    return any(name.endswith("embeddings.cls_token") for name in names)


def backbone_from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of DINOv2 or DINOv3 in Hugging Face's names in timm's: query, key and value fused.

    Learned positions begin with one for the class token. Names that are in neither stay, for the caller to refuse.
    """
    rotary = any(name.endswith(ROTARY) for name in state)
    gated = any(".mlp.gate_proj." in name for name in state)
    renamed = TABLES[rotary, gated].backwards({PREFIX.sub("", name): value for name, value in state.items()})
    renamed.pop("mask_token", None)
    if "pos_embed" in renamed and renamed["pos_embed"].dim() == 2:
        # EoMT's, of patches alone
        positions = renamed["pos_embed"]
        renamed["pos_embed"] = torch.cat((torch.zeros_like(positions[:1]), positions))[None]
    if "reg_token" in renamed and not renamed["reg_token"].numel():
        del renamed["reg_token"]
    return renamed


def backbone_to_hugging_face(state: Mapping[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """Return a state dict of DINOv2, or of DINOv3 if `rotary`, in the names of transformers' EoMT classes.

    They have no position of a class token: see `without_class_position`.
    """
    renamed = TABLES[rotary, _gated(state, rotary)].forwards(state)
    tokens = "embeddings.register_tokens"
    if "embeddings.cls_token" in renamed:
        renamed.setdefault(tokens, renamed["embeddings.cls_token"][:, :0])
    places = "embeddings.position_embeddings.weight"
    if places in renamed:
        renamed[places] = renamed[places][0]
    return renamed


def without_class_position(state: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """Return a backbone's state dict with the position of its class token, if it has one, added to the token."""
    return _fold_class_position(state) if _has_class_position(backbone) else dict(state)


def fit_to(backbone: Backbone, state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """Return what `backbone_from_hugging_face` gives, with the tensors that `backbone` has.

    The position of the class token is added to the token where the backbone has none. DINOv3's biases of query and
    value are zeros where the file has none.

    Raises:
        UserError: For biases that are not zero, of a backbone without.
    """
    own = backbone.state_dict()
    folds = backbone.pos_embed is not None and not _has_class_position(backbone)
    state = _fold_class_position(state) if folds and {"cls_token", "pos_embed"} <= set(state) else dict(state)
    for name in [name for name in own if name.endswith((".attn.q_bias", ".attn.v_bias"))]:
        state.setdefault(name, torch.zeros_like(own[name]))
    for name in [name for name in state if name.endswith((".attn.q_bias", ".attn.v_bias")) and name not in own]:
        if state.pop(name).any():
            raise UserError(f"{path}: {name!r} is not zero; choose the backbone_name that ends in _qkvb")
    return state


def _has_class_position(backbone: Backbone) -> bool:
    """Return whether the first of its learned positions is that of a class token."""
    return backbone.pos_embed is not None and backbone.cls_token is not None and not backbone.no_embed_class


def _fold_class_position(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with the first position added to the class token and taken out."""
    token, positions = state["cls_token"], state["pos_embed"]
    return dict(state) | {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}


def _gated(state: Mapping[str, Tensor], rotary: bool) -> bool:
    """Return whether MLPs are gated: DINOv2's second layer then takes half of what the first gives."""
    if rotary:
        return "blocks.0.mlp.fc1_g.weight" in state
    first, second = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    return first is not None and second is not None and len(first) == 2 * second.shape[1]
