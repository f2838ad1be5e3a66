"""A timm ViT as encoder: from the hub, from a folder in timm or Hugging Face layout, or untrained."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.errors import UserError
from eomt.models.adapter_io import mark_loaded
from eomt.models.pretrained import load_backbone, require_hub


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

    # adapters are named as in the timm model, so that PEFT opens them on it
    inner_models = ("backbone",)
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
        image = ((image / scale - self.pixel_mean) / self.pixel_std).to(self.backbone.patch_embed.proj.weight.dtype)
        tokens = self.backbone.patch_embed(image)  # (B, h, w, D)
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
        if not is_model_in_modules(self.backbone_name.split(".")[0], ["vision_transformer"]):
            raise UserError(f"backbone_name: {self.backbone_name!r} is no plain ViT; see timm.list_models('vit_*')")
        repository = _pretrained_config(self.backbone_name).hf_hub_id
        if from_hub and repository:
            require_hub(repository)
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
        assert isinstance(backbone, VisionTransformer)
        return backbone


def _pretrained_config(backbone_name: str) -> PretrainedCfg:
    """timm's record of a model: normalisation and where its weights are; a neutral one where timm has none."""
    return timm.get_pretrained_cfg(backbone_name) or PretrainedCfg()
