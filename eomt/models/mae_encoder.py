"""The encoder of a masked autoencoder, which here sees every patch, with transformers' `ViTMAEModel`.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv:2111.06377).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTMAEModel
from transformers.models.vit_mae.modeling_vit_mae import ViTMAELayer

from eomt.errors import UserError
from eomt.models.encoder import TokenEncoder
from eomt.models.frozen_features import weights_of
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.parts.recomputing import RecomputingNetwork
from eomt.models.weights.mae import (
    POSITIONS,
    REPOSITORY,
    fill_mae_encoder,
    initialize_mae,
    mae_config,
    read_mae,
)
from eomt.utils.modes import evaluation_mode
from eomt.utils.paths import PathOrName, expand_source


class MAEEncoder(RecomputingNetwork, TokenEncoder):
    """ViT-MAE without masking: from images to tokens in the order of the patches.

    The default sizes are those of the base model; weights that are read must have the sizes given here.

    Args:
        pretrained: True takes facebook/vit-mae-base from the hub (Meta's weights are CC-BY-NC-4.0: no commercial use).
            A text is a folder in Hugging Face layout of a ViTMAEModel or ViTMAEForPreTraining, or a repository. False
            leaves the weights random.
        img_size: Height and width in pixels of the position grid, a square; positions that are read are resampled to
            it, and again for a batch of another size.
        patch_size: Side of a patch in pixels.
        hidden_size: Width D of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: If a size is impossible, or weights are not available or do not fit.
    """

    # adapters have the names of the Hugging Face model
    inner_models = ("model",)
    # sines and cosines, which training does not change
    frozen_modules = (f"model.{POSITIONS}",)

    def __init__(
        self,
        pretrained: bool | PathOrName = True,
        img_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        self.pretrained, self.patch_size = pretrained, patch_size
        self.img_size = (int(img_size[0]), int(img_size[1]))
        self.model = ViTMAEModel(mae_config(self.img_size, patch_size, hidden_size, depth, num_heads, mask_ratio=0.0))
        if pretrained:
            fill_mae_encoder(self.model, read_mae(pretrained))
        else:
            initialize_mae(self.model)
        if checkpointing:
            self.checkpointing = True
        self.normalize = PixelNormalization()

    @property
    def embed_dim(self) -> int:
        """Width D of the tokens."""
        return self.model.config.hidden_size

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.model.layers)

    @property
    def base(self) -> str:
        """Origin of the weights in words."""
        return describe_base(self.pretrained)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before those of the patches: the class token."""
        return 1

    @property
    def has_class_token(self) -> bool:
        """Always."""
        return True

    def depth_of(self, parameter: str) -> int:
        """Return 0 for embeddings, i + 1 for block i and the last for the norm."""
        inner = parameter.removeprefix("model.")
        if inner.startswith("layers."):
            return int(inner.split(".")[1]) + 1
        return self.num_blocks if inner.startswith("layernorm.") else 0

    def compile_blocks(self) -> None:
        """Compile each block in place."""
        for layer in self.model.layers:
            layer.compile()

    def embed(self, image: Tensor) -> Tensor:
        """Return the tokens before the first block.

        Args:
            image: RGB images, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W); H and W are multiples of the
                patch size.

        Returns:
            Tokens (B, 1 + h * w, D), the class token first.

        Raises:
            UserError: If the images have another size.
        """
        height, width = self.grid(image)
        embeddings = self.model.embeddings
        pixels = self.normalize(image).to(embeddings.patch_embeddings.projection.weight.dtype)
        # increasing noise: the model sorts patches by it, even where none is masked
        in_order = torch.arange(height * width, device=image.device).expand(image.shape[0], -1)
        return embeddings(pixels, noise=in_order, interpolate_pos_encoding=True)[0]

    def begin(self, image: Tensor, most: int) -> tuple[Tensor, int]:
        """Return the input of block k and k: everything below it is frozen, and kept as `enter` says.

        Args:
            image: Images as in `embed`.
            most: Highest k.

        Raises:
            UserError: As in `embed`.
        """
        before = weights_of(self.normalize, self.model.embeddings)
        return self.enter(image, before, list(self.model.layers)[:most], self.embed, self.run_block)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Return rows and columns of patches of `image` (B, 3, H, W).

        Raises:
            UserError: If they are no whole numbers.
        """
        height, width = image.shape[-2:]
        patch = self.patch_size
        if min(height, width) < patch or height % patch or width % patch:
            raise UserError(f"image: {height} x {width} pixels; both must be multiples of the patch size {patch}")
        return height // patch, width // patch

    def run_block(self, index: int, tokens: Tensor) -> Tensor:
        """Return the output of block `index` for tokens (B, N, D)."""
        return self.model.layers[index](tokens)

    def norm(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, D) after the last norm."""
        return self.model.layernorm(tokens)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to normalized tokens (B, 1 + h * w, D), the class token first."""
        return self.tokens(image)

    def tokens(self, image: Tensor) -> Tensor:
        """Return what `forward` returns."""
        tokens, done = self.begin(image, self.num_blocks)
        for index in range(done, self.num_blocks):
            tokens = self.run_block(index, tokens)
        return self.norm(tokens)

    @torch.no_grad()
    def attention_rollout(self, image: Tensor) -> Tensor:
        """Return how much of each patch reaches the class token through all blocks.

        Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928): the product over the blocks
        of (A + I) / 2, where A is the attention averaged over the heads.

        Args:
            image: Images (B, 3, H, W), as in `forward`.

        Returns:
            Shares (B, h, w) in fp32; together with the class token's own share they sum to 1.
        """
        height, width = self.grid(image)
        with evaluation_mode(self), eager_attention(self.model):
            tokens = self.embed(image)
            identity = torch.eye(tokens.shape[1], device=tokens.device)
            rollout = identity.expand(len(tokens), -1, -1)
            for layer in self.model.layers:
                assert isinstance(layer, ViTMAELayer)
                weights = layer.attention(layer.layernorm_before(tokens))[1]  # (B, heads, N, N)
                rollout = (weights.float().mean(1) + identity) / 2 @ rollout
                tokens = layer(tokens)
        return rollout[:, 0, 1:].unflatten(1, (height, width))


@contextlib.contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the attention that also returns its weights within, and the former, faster one afterwards."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def describe_base(pretrained: bool | str) -> str:
    """Return the origin of a ViT-MAE's weights in words."""
    if isinstance(pretrained, str):
        return pretrained
    return REPOSITORY if pretrained else "vit-mae (random)"
