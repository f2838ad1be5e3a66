"""A timm ViT as encoder: from the hub, from a folder in timm or Hugging Face layout, or untrained."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.errors import UserError
from eomt.models.adapter_io import mark_loaded

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class ViT(nn.Module):
    """A plain vision transformer (DINOv2, MAE, supervised, ...) that returns patch tokens.

    Args:
        backbone_name: a timm name, such as vit_base_patch14_reg4_dinov2.
        img_size: height and width in pixels that the position grid is made for; a batch of another size resamples it.
        pretrained: true takes the weights of `backbone_name` from the hub, a path reads a folder or file in timm or
            Hugging Face layout, false leaves the weights random.
        patch_size: in pixels; None keeps the backbone's own. Loaded patch embeddings are resampled to it.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: for an unknown name, a size that is no multiple of the patch, weights that cannot be had or do not
            fit.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone_name: str = "vit_base_patch14_reg4_dinov2",
        img_size: tuple[int, int] = (518, 518),
        pretrained: bool | str = True,
        patch_size: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        arguments: dict[str, Any] = {"patch_size": patch_size} if patch_size else {}
        self.backbone_name, self.pretrained, self.checkpointing = backbone_name, pretrained, checkpointing
        self.img_size = (int(img_size[0]), int(img_size[1]))
        self.backbone = self._create(pretrained is True, **arguments)
        self.patch_size: int = self.backbone.patch_embed.patch_size[0]
        if self.img_size[0] % self.patch_size or self.img_size[1] % self.patch_size:
            down = [max(self.patch_size, side // self.patch_size * self.patch_size) for side in self.img_size]
            raise UserError(
                f"img_size: {list(self.img_size)} is no multiple of the patch size {self.patch_size}; {down} would do"
            )
        if pretrained is True:
            mark_loaded(self.backbone, self.backbone.state_dict())
        elif pretrained:
            load_backbone(self.backbone, pretrained)
        config = _pretrained_config(backbone_name)
        self.register_buffer("pixel_mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def embed_dim(self) -> int:
        return self.backbone.embed_dim

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens before the patch tokens."""
        return self.backbone.num_prefix_tokens

    @property
    def blocks(self) -> nn.Sequential:
        return self.backbone.blocks

    @property
    def base(self) -> str:
        """Where the weights come from, for people."""
        if isinstance(self.pretrained, str):
            return self.pretrained
        if not self.pretrained:
            return f"{self.backbone_name} (random)"
        return _pretrained_config(self.backbone_name).hf_hub_id or self.backbone_name

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens before the first block.

        Args:
            image: uint8 (0 to 255) or floating point (0 to 1) RGB, (B, 3, H, W), H and W multiples of the patch.

        Returns:
            (B, prefix + h * w, D) and the grid (h, w).
        """
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(f"image: {height} x {width} pixels is no multiple of the patch size {self.patch_size}")
        scale = 255.0 if image.dtype == torch.uint8 else 1.0
        tokens = self.backbone.patch_embed((image / scale - self.pixel_mean) / self.pixel_std)  # (B, h, w, D)
        grid = (tokens.shape[1], tokens.shape[2])
        tokens = self.backbone.norm_pre(self.backbone.patch_drop(self.backbone._pos_embed(tokens)))
        return tokens, grid

    def run_block(self, index: int, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Block `index` on tokens (B, N, D); `attn_mask` is bool, true where attention is allowed, (B, 1, N, N)."""
        block = self.blocks[index]
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, attn_mask, use_reentrant=False)
        return block(tokens, attn_mask)

    def norm(self, tokens: Tensor) -> Tensor:
        return self.backbone.norm(tokens)

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) -> normalised patch features (B, D, h, w)."""
        tokens, (height, width) = self.embed(image)
        for index in range(len(self.blocks)):
            tokens = self.run_block(index, tokens)
        return self.norm(tokens)[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, (height, width))

    def _create(self, from_hub: bool, **arguments: Any) -> VisionTransformer:
        if not timm.is_model(self.backbone_name):
            nearest = difflib.get_close_matches(self.backbone_name.split(".")[0], timm.list_models(), n=3)
            hint = f"nearest: {', '.join(nearest)}" if nearest else "see timm.list_models('vit_*')"
            raise UserError(f"backbone_name: {self.backbone_name!r} is no timm model; {hint}")
        if not timm.is_model_in_modules(self.backbone_name.split(".")[0], ["vision_transformer"]):
            raise UserError(f"backbone_name: {self.backbone_name!r} is no plain ViT; see timm.list_models('vit_*')")
        try:
            backbone = timm.create_model(
                self.backbone_name,
                pretrained=from_hub,
                img_size=self.img_size,
                dynamic_img_size=True,
                num_classes=0,
                global_pool="",
                **arguments,
            )
        except (OSError, RuntimeError) as error:
            if not from_hub:
                raise
            raise UserError(
                f"pretrained: the weights of {self.backbone_name!r} cannot be had from the hub "
                f"({str(error).splitlines()[0]}); give a local folder: --model.network.encoder.pretrained FOLDER"
            ) from error
        if not isinstance(backbone, VisionTransformer):
            raise UserError(f"backbone_name: {self.backbone_name!r} is no plain ViT ({type(backbone).__name__})")
        return backbone


def _pretrained_config(backbone_name: str) -> PretrainedCfg:
    """timm's record of a model: normalisation and where its weights are; a neutral one where timm has none."""
    return timm.get_pretrained_cfg(backbone_name) or PretrainedCfg()


def load_backbone(backbone: VisionTransformer, path: str | Path) -> None:
    """Fills a timm ViT from a folder or file in timm or Hugging Face layout; position grid and patches are resampled.

    Raises:
        UserError: for a missing or damaged file, or weights of another architecture.
    """
    state = read_weights(path)
    if any(name.endswith("embeddings.cls_token") for name in state):
        state = from_hugging_face(state, folds_class_position=bool(backbone.no_embed_class))
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm.", "mask_token"))}
    own = backbone.state_dict()
    try:
        state = dict(checkpoint_filter_fn(state, backbone))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: does not fit {type(backbone).__name__} ({str(error).splitlines()[0]})") from error
    for name, value in state.items():
        if name in own and own[name].shape != value.shape:
            raise UserError(
                f"{path}: {name!r} has shape {list(value.shape)}, the backbone's has {list(own[name].shape)}; "
                "choose the backbone_name that these weights are of"
            )
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        found = f"lacks {missing[0]!r}" if missing else f"holds {unexpected[0]!r}, which the backbone has not"
        raise UserError(f"{path}: {found}; choose the backbone_name that these weights are of")
    backbone.load_state_dict(state)
    mark_loaded(backbone, state)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a folder or file: safetensors, or a PyTorch file read with `weights_only=True`.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    file = path
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}")
        file = found[0]
    if not file.is_file():
        raise UserError(f"{path}: there is no such file or folder; give weights in timm or Hugging Face layout")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # nobody's code is run: the file is damaged, or holds objects instead of tensors
        raise UserError(f"{file}: cannot be read as plain tensors (weights_only); give safetensors") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); copy it again") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return state


# Hugging Face's names below a layer -> timm's below a block. transformers 5 moved the attention.
LAYER_NAMES = (
    (re.compile(r"^attention\.(attention\.)?(query|q_proj)\."), "attn.q."),
    (re.compile(r"^attention\.(attention\.)?(key|k_proj)\."), "attn.k."),
    (re.compile(r"^attention\.(attention\.)?(value|v_proj)\."), "attn.v."),
    (re.compile(r"^attention\.(output\.dense|o_proj)\."), "attn.proj."),
    (re.compile(r"^layer_scale(\d)\.lambda1"), r"ls\1.gamma"),
    (re.compile(r"^mlp\.weights_in\."), "mlp.fc1."),
    (re.compile(r"^mlp\.weights_out\."), "mlp.fc2."),
)


def from_hugging_face(state: dict[str, Tensor], folds_class_position: bool) -> dict[str, Tensor]:
    """A DINOv2 state dict in Hugging Face's names, in timm's: q, k and v fused.

    Args:
        folds_class_position: timm's register models hold no position for the class token; it is added to the token.
    """
    renamed: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = re.sub(r"^(dinov2(_with_registers)?|model|backbone)\.", "", full_name)
        if name.startswith("embeddings."):
            name = name.removeprefix("embeddings.")
            name = name.replace("patch_embeddings.projection", "patch_embed.proj")
            name = name.replace("position_embeddings", "pos_embed").replace("register_tokens", "reg_token")
        elif match := re.match(r"^(?:encoder\.)?layers?\.(\d+)\.(.*)", name):
            index, inner = match.groups()
            for pattern, replacement in LAYER_NAMES:
                inner = pattern.sub(replacement, inner)
            name = f"blocks.{index}.{inner}"
        else:
            name = re.sub(r"^layernorm\.", "norm.", name)
        renamed[name] = value
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    if folds_class_position:
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return {name: value for name, value in renamed.items() if name != "mask_token"}
