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

Backbone = VisionTransformer | Eva
Renames = tuple[tuple[str, str], ...]

PREFIX = r"^(dinov2(_with_registers)?|dinov3_vit|model|backbone)\."
EMBEDDINGS: Renames = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings(\.weight)?$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.", ""),
    (r"^layernorm\.", "norm."),
)
# below a layer, of every transformers version whose files are about
LAYER: Renames = (
    (r"^attention\.(attention\.)?(query|q_proj)\.", "attn.q."),
    (r"^attention\.(attention\.)?(key|k_proj)\.", "attn.k."),
    (r"^attention\.(attention\.)?(value|v_proj)\.", "attn.v."),
    (r"^attention\.(output\.dense|o_proj|out_proj)\.", "attn.proj."),
    (r"^mlp\.(weights_out|down_proj)\.", "mlp.fc2."),
    (r"^mlp\.weights_in\.", "mlp.fc1."),
)
DINOV2: Renames = ((r"^layer_scale(\d)\.lambda1$", r"ls\1.gamma"),)
DINOV3: Renames = (
    (r"^layer_scale(\d)\.lambda1$", r"gamma_\1"),
    (r"^attn\.([qv])\.bias$", r"attn.\1_bias"),
)
DINOV3_MLP: Renames = ((r"^mlp\.up_proj\.", "mlp.fc1."),)
DINOV3_GATED_MLP: Renames = ((r"^mlp\.gate_proj\.", "mlp.fc1_g."), (r"^mlp\.up_proj\.", "mlp.fc1_x."))

# the way back, to the names of transformers' EoMT classes
TO_EMBEDDINGS: Renames = (
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings.weight"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "layers."),
)
TO_DINOV2: Renames = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"\.attn\.proj\.", ".attention.out_proj."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)
TO_DINOV2_GATED: Renames = (*TO_DINOV2, (r"\.mlp\.fc2\.", ".mlp.down_proj."))
TO_DINOV3: Renames = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
    (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
)


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether some names are of a DINOv2 or DINOv3 of Hugging Face."""
    return any(name.endswith("embeddings.cls_token") for name in names)


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of DINOv2 or DINOv3 in Hugging Face's names, in timm's: query, key and value fused.

    Learned positions begin with one for the class token. Names that are in neither stay, for the caller to refuse.
    """
    rotary = any(name.endswith("embeddings.patch_embeddings.weight") for name in state)
    gated = any(".mlp.gate_proj." in name for name in state)
    layer = LAYER + (DINOV3 if rotary else DINOV2)
    if rotary:
        layer += DINOV3_GATED_MLP if gated else DINOV3_MLP
    renamed: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = re.sub(PREFIX, "", full_name)
        if match := re.match(r"^(?:encoder\.)?layers?\.(\d+)\.(.*)", name):
            name = f"blocks.{match[1]}.{_rename(match[2], layer)}"
        else:
            name = _rename(name, EMBEDDINGS)
        if name == "pos_embed" and value.dim() == 2:
            # EoMT's, of patches alone
            value = torch.cat((torch.zeros_like(value[:1]), value))[None]
        if name != "mask_token" and not (name == "reg_token" and not value.numel()):
            renamed[name] = value
    _fuse(renamed, ("attn.q.", "attn.k.", "attn.v."), "attn.qkv.")
    _fuse(renamed, ("mlp.gate_proj.", "mlp.up_proj."), "mlp.fc1.")
    return renamed


def to_hugging_face(state: Mapping[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """A state dict of DINOv2, or of DINOv3 if `rotary`, in timm's names, in those of transformers' EoMT classes.

    The position of a class token is added to the token: transformers has none.
    """
    gated = not rotary and _gated(state)
    renames = TO_EMBEDDINGS + (TO_DINOV3 if rotary else TO_DINOV2_GATED if gated else TO_DINOV2)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            inner = _rename(name, TO_EMBEDDINGS)
            parts = zip("qkv", value.chunk(3), strict=True)
            renamed |= {inner.replace("attn.qkv", f"attention.{part}_proj"): third for part, third in parts}
        elif gated and ".mlp.fc1." in name:
            inner = _rename(name, TO_EMBEDDINGS)
            parts = zip(("gate", "up"), value.chunk(2), strict=True)
            renamed |= {inner.replace("fc1", f"{part}_proj"): half for part, half in parts}
        else:
            renamed[_rename(name, renames)] = value
    tokens = "embeddings.register_tokens"
    if "embeddings.cls_token" in renamed:
        renamed.setdefault(tokens, renamed["embeddings.cls_token"][:, :0])
    places = "embeddings.position_embeddings.weight"
    if places in renamed:
        renamed[places] = renamed[places][0]
    return renamed


def without_class_position(state: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's state dict with the position of its class token, if it has one, added to the token."""
    state = dict(state)
    if _has_class_position(backbone):
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def fit_to(backbone: Backbone, state: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """What `from_hugging_face` gives, with the tensors that `backbone` has.

    The position of the class token is added to the token where the backbone has none. DINOv3's biases of query and
    value are zeros where the file has none.

    Raises:
        UserError: for biases that are not zero, of a backbone without.
    """
    state, own = dict(state), backbone.state_dict()
    folds = backbone.pos_embed is not None and not _has_class_position(backbone)
    if folds and {"cls_token", "pos_embed"} <= set(state):
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    for name in [name for name in own if name.endswith((".attn.q_bias", ".attn.v_bias"))]:
        state.setdefault(name, torch.zeros_like(own[name]))
    for name in [name for name in state if name.endswith((".attn.q_bias", ".attn.v_bias")) and name not in own]:
        if state.pop(name).any():
            raise UserError(f"{path}: {name!r} is not zero; choose the backbone_name that ends in _qkvb")
    return state


def _has_class_position(backbone: Backbone) -> bool:
    return backbone.pos_embed is not None and backbone.cls_token is not None and not backbone.no_embed_class


def _gated(state: Mapping[str, Tensor]) -> bool:
    """Whether DINOv2's MLP is gated: its second layer then takes half of what the first gives."""
    first, second = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    return first is not None and second is not None and len(first) == 2 * second.shape[1]


def _fuse(state: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> None:
    """Puts tensors that stand for one together, in place, where all of them are there."""
    for name in [name for name in state if parts[0] in name]:
        names = [name.replace(parts[0], part) for part in parts]
        if all(part in state for part in names):
            state[name.replace(parts[0], whole)] = torch.cat([state.pop(part) for part in names])


def _rename(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name
