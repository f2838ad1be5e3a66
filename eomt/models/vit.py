"""A timm ViT as encoder, with weights from the hub, from a folder in timm or Hugging Face layout, or random ones.

timm is imported where an encoder is built: that takes a second, and the command line asks for the arguments alone.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.errors import UserError
from eomt.models.encoder import TokenEncoder
from eomt.models.frozen_features import weights_of
from eomt.models.network import check_img_size
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.weights.colors import Colors
from eomt.models.weights.timm_models import base_of, check_name, create_model, pretrained_config
from eomt.utils.images import RGB
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_source

if TYPE_CHECKING:
    from eomt.models.weights.backbone.names import Backbone

# children of a timm model that do not stand before its blocks
BEHIND = ("blocks", "norm", "fc_norm", "head_drop", "head")


class Embedding(NamedTuple):
    """The input of the first block."""

    tokens: Tensor  # (B, prefix + h * w, D)
    grid: tuple[int, int]  # h, w
    rope: Tensor | None  # rotary embedding of the patches in DINOv3, (h * w, 2 * head width)


class ViT(TokenEncoder):
    """A plain vision transformer (DINOv2, DINOv3, MAE, supervised, ...) that returns patch tokens.

    Args:
        backbone_name: Name of a timm model, such as vit_base_patch14_reg4_dinov2.
        img_size: Height and width in pixels of the position grid; it is resampled for a batch of another size.
        pretrained: True takes the weights of `backbone_name` from the hub. A text is a folder or file in timm or
            Hugging Face layout, or a repository on the hub. False leaves the weights random.
        patch_size: Side of a patch in pixels; None keeps the backbone's own. Loaded patch embeddings are resampled.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        in_chans: Number of channels C of images, from 3 on; null is 3, or with a config that of the data. For more than
            three, loaded weights of the patch embedding are adapted, see `eomt.models.weights.backbone.channels`.

    Raises:
        UserError: If the name is unknown, the image size is no multiple of the patch size, or weights are not available
            or do not fit.
    """

    # adapters have the names of the timm model, so that PEFT opens them on it
    inner_models = ("backbone",)

    def __init__(
        self,
        backbone_name: str = "vit_base_patch14_reg4_dinov2",
        img_size: tuple[int, int] = (518, 518),
        pretrained: bool | PathOrName = True,
        patch_size: int | None = None,
        checkpointing: bool = False,
        in_chans: int | None = None,
    ) -> None:
        from timm.models.eva import EvaAttention

        from eomt.models.weights.backbone.channels import mark_adapted
        from eomt.models.weights.backbone.load import load_backbone

        super().__init__()
        pretrained = expand_source(pretrained)
        if patch_size is not None and patch_size < 1:
            raise UserError(f"patch_size: {patch_size}; must be at least 1, or null for the backbone's own")
        check_img_size(img_size)
        self.in_chans = RGB if in_chans is None else in_chans
        if self.in_chans < RGB:
            raise UserError(f"in_chans: {in_chans}; must be at least {RGB}: one band is shown in gray")
        arguments: dict[str, Any] = {"patch_size": patch_size} if patch_size else {}
        arguments |= {"in_chans": self.in_chans} if self.in_chans != RGB else {}
        self.backbone_name, self.pretrained, self.checkpointing = backbone_name, pretrained, checkpointing
        self.img_size = (int(img_size[0]), int(img_size[1]))
        self.backbone = self._create(pretrained is True, **arguments)
        for attention in self.backbone.modules():
            if isinstance(attention, EvaAttention):
                # else timm, where there is a bias, reads the weight of qkv without calling it, which bypasses adapters
                attention.qkv_bias_separate = True
        self.patch_size = self.backbone.patch_embed.patch_size[0]
        if self.img_size[0] % self.patch_size or self.img_size[1] % self.patch_size:
            down = [max(self.patch_size, side // self.patch_size * self.patch_size) for side in self.img_size]
            raise UserError(
                f"img_size: {list(self.img_size)} is no multiple of the patch size {self.patch_size}; {down} would do"
            )
        if pretrained is True:
            mark_loaded(self.backbone, self.backbone.state_dict())
            if self.in_chans != RGB:
                mark_adapted(self.backbone.patch_embed)
        elif pretrained:
            load_backbone(self.backbone, pretrained)
        config = pretrained_config(backbone_name)
        self.normalize = PixelNormalization(config.mean, config.std, self.in_chans)

    @property
    def embed_dim(self) -> int:
        """Width D of the tokens."""
        return self.backbone.embed_dim

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens, which stand before the patch tokens."""
        return self.backbone.num_prefix_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token: timm has ViTs without."""
        return self.backbone.cls_token is not None

    @property
    def blocks(self) -> nn.Sequential | nn.ModuleList:
        """Transformer blocks."""
        return self.backbone.blocks

    @property
    def colors(self) -> tuple[Colors, Colors]:
        """Mean and deviation of the colors, for normalization."""
        return self.normalize.colors

    @property
    def base(self) -> str:
        """Origin of the weights in words: a repository, a path, or the name of the model."""
        return base_of(self.backbone_name, self.pretrained)

    @property
    def loading_notes(self) -> list[str]:
        """What the patch embedding was made of, where images have more channels than those of its weights."""
        from eomt.models.weights.backbone.channels import adapted_note

        note = adapted_note(self.backbone.patch_embed)
        return [] if note is None else [note]

    def compile_blocks(self) -> None:
        """Compile each block in place; they share a graph."""
        for block in self.blocks:
            block.compile()

    def depth_of(self, parameter: str) -> int:
        """Return 0 for embeddings, i + 1 for block i and the last for the norm."""
        inner = parameter.removeprefix("backbone.")
        if inner.startswith("blocks."):
            return int(inner.split(".")[1]) + 1
        return len(self.blocks) if inner.startswith("norm.") else 0

    def embed(self, image: Tensor) -> Embedding:
        """Return the input of the first block.

        Args:
            image: Images, uint8 (0 to 255) or floating point (0 to 1), (B, C, H, W), the first three channels red,
                green and blue; H and W are multiples of the patch size.

        Raises:
            UserError: If the images have another size or number of channels.
        """
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"image: {height} x {width} pixels; both must be multiples of the patch size {self.patch_size}"
            )
        pixels = self.normalize(image).to(self.backbone.patch_embed.proj.weight.dtype)
        tokens = self.backbone.patch_embed(pixels)  # (B, h, w, D)
        grid = (tokens.shape[1], tokens.shape[2])
        # of timm's classes that are taken here, Eva alone rotates
        if hasattr(self.backbone, "rope"):
            tokens, rope = self.backbone._pos_embed(tokens)
            return Embedding(self.backbone.norm_pre(tokens), grid, rope)
        tokens = self.backbone.norm_pre(self.backbone.patch_drop(self.backbone._pos_embed(tokens)))
        return Embedding(tokens, grid, None)

    def begin(self, image: Tensor, most: int) -> tuple[Embedding, int]:
        """Return the input of block k and k: everything below it is frozen, and kept as `enter` says.

        Args:
            image: Images as in `embed`.
            most: Highest k.

        Raises:
            UserError: As in `embed`.
        """
        height, width = image.shape[-2:]
        grid = (height // self.patch_size, width // self.patch_size)
        # of timm's classes that are taken here, Eva alone rotates
        positions: Any = getattr(self.backbone, "rope", None)
        rope = None if positions is None else positions.get_embed(shape=grid)
        before = weights_of(self.normalize, *(m for name, m in self.backbone.named_children() if name not in BEHIND))
        before += [*self.backbone.parameters(recurse=False), *self.backbone.buffers(recurse=False)]
        tokens, done = self.enter(
            image,
            before,
            list(self.blocks)[:most],
            lambda images: self.embed(images).tokens,
            lambda index, tokens: self.run_block(index, tokens, rope=rope),
        )
        return Embedding(tokens, grid, rope), done

    def run_block(
        self, index: int, tokens: Tensor, attn_mask: Tensor | None = None, rope: Tensor | None = None
    ) -> Tensor:
        """Return the output of a block, tokens (B, N, D).

        Args:
            index: Number of the block, from 0.
            tokens: Tokens (B, N, D), those of patches last.
            attn_mask: Bool (B, 1, N, N), true where attention is allowed; None allows it everywhere.
            rope: Rotary embedding from `embed`; it rotates only the tokens of patches.
        """
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._run_block, index, tokens, attn_mask, rope, use_reentrant=False)
        return self._run_block(index, tokens, attn_mask, rope)

    def norm(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, D) after the last norm."""
        return self.backbone.norm(tokens)

    def tokens(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W) to normalized tokens (B, prefix + h * w, D), those of patches last."""
        (tokens, _, rope), done = self.begin(image, len(self.blocks))
        for index in range(done, len(self.blocks)):
            tokens = self.run_block(index, tokens, rope=rope)
        return self.norm(tokens)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W) to normalized patch features (B, D, h, w)."""
        grid = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        return self.tokens(image)[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def _run_block(self, index: int, tokens: Tensor, attn_mask: Tensor | None, rope: Tensor | None) -> Tensor:
        block = self.blocks[index]
        if rope is None:
            return block(tokens, attn_mask)
        attention: Any = block.attn
        # put back at once: the backbone may run alone, and a checkpointed block runs again in the backward pass
        attention.num_prefix_tokens = tokens.shape[1] - len(rope)
        try:
            return block(tokens, rope, attn_mask)
        finally:
            attention.num_prefix_tokens = self.num_prefix_tokens

    def _create(self, from_hub: bool, **arguments: Any) -> "Backbone":
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer

        check_name(self.backbone_name, "vit_*")
        if not _takes_queries(self.backbone_name.split(".")[0]):
            raise UserError(
                f"backbone_name: {self.backbone_name!r} is no plain ViT or DINOv3, whose blocks take a mask and "
                "queries beside the patches; see timm.list_models('vit_*')"
            )
        backbone = create_model(
            self.backbone_name,
            from_hub,
            img_size=self.img_size,
            dynamic_img_size=True,
            num_classes=0,
            global_pool="",
            **arguments,
        )
        assert isinstance(backbone, VisionTransformer | Eva)
        return backbone


def _takes_queries(architecture: str) -> bool:
    """Return whether a timm model is a plain ViT or DINOv3, whose blocks take additional tokens and a mask.

    The model is built on the meta device and its modules decide, since plain ViTs have many names.
    """
    import timm
    from timm.layers import PatchEmbed, RotaryEmbeddingDinoV3
    from timm.models.eva import Eva, EvaAttention, EvaBlock
    from timm.models.vision_transformer import (
        Block,
        DiffParallelScalingBlock,
        ParallelScalingBlock,
        ResPostBlock,
        VisionTransformer,
    )

    # blocks that take an attention mask; the other blocks of timm's ViTs do not
    plain = {Block, ResPostBlock, ParallelScalingBlock, DiffParallelScalingBlock}
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, num_classes=0)
    blocks = getattr(model, "blocks", None)
    kinds = {type(block) for block in blocks} if isinstance(blocks, nn.Sequential | nn.ModuleList) else set()
    if type(model) is VisionTransformer:
        return kinds <= plain and type(model.patch_embed) is PatchEmbed
    # timm's other Eva models rotate or fuse query and key in other ways
    rotated = type(model) is Eva and isinstance(model.rope, RotaryEmbeddingDinoV3)
    return rotated and kinds == {EvaBlock} and all(type(block.attn) is EvaAttention for block in model.blocks)
