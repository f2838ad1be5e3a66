"""A masked autoencoder for pre-training on unlabelled images, on transformers' `ViTMAEForPreTraining`.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv:2111.06377).
"""

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import ViTMAEForPreTraining

from eomt.errors import UserError
from eomt.models.mae_encoder import describe_base, enable_checkpointing
from eomt.models.masking import apply_mask, block_noise, check_ratio, num_kept, random_noise
from eomt.models.network import Network
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.weights.mae import (
    DECODER_POSITIONS,
    POSITIONS,
    fill_mae_decoder,
    fill_mae_encoder,
    initialize_positions,
    mae_config,
    mae_decoder_fields,
    read_mae,
    save_mae_encoder,
)
from eomt.utils.paths import PathOrName, expand_source

log = logging.getLogger("eomt")

# Added to the variance of a patch before it is divided by, as in the paper's code.
EPSILON = 1e-6


class MAEPrediction(NamedTuple):
    """What the decoder makes of the patches that the encoder saw."""

    reconstruction: Tensor  # (B, N, p * p * 3), in the terms of `MaskedAutoencoder.target`
    mask: Tensor  # (B, N), 1 where a patch was removed


class MAEPictures(NamedTuple):
    """What people look at; uint8 (B, 3, H, W) each."""

    image: Tensor
    masked: Tensor  # removed patches in the mean colour
    reconstruction: Tensor  # removed patches as predicted, the others as they were


class MaskedAutoencoder(Network):
    """ViT-MAE that rebuilds the patches it does not see.

    Encoder and decoder have positions of their own, and the decoder a learned mask token. LoRA's `query`, `attention`
    and the like reach the decoder, too: put `decoder` into exclude_modules, or into trainable_modules.

    Args:
        pretrained: true takes facebook/vit-mae-base from the hub (Meta's weights are CC-BY-NC-4.0: no commercial use);
            a text is a folder in Hugging Face layout of a ViTMAEForPreTraining or ViTMAEModel, or a repository; false
            starts from scratch. The encoder's sizes must be those given here. The decoder is taken if it has the sizes
            given here, too (the released one has a depth of 8), else it starts anew.
        img_size: height and width in pixels, a square; positions that are read are resampled to it.
        patch_size: p, in pixels.
        mask_ratio: share of the patches that are removed, above 0 and below 1.
        masking: remove patches at random, or block by block.
        decoder_depth: number of the decoder's blocks.
        norm_pix_loss: predict each patch less its mean, divided by its deviation.
        hidden_size, depth, num_heads: of the encoder; those of the base model.
        decoder_hidden_size, decoder_num_heads: likewise.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: for sizes or a ratio that cannot be, or weights that cannot be had or do not fit.
    """

    # adapters are named as in the Hugging Face model
    inner_models = ("model",)
    # sines and cosines: training leaves them as they are
    frozen_modules = (f"model.vit.{POSITIONS}", f"model.decoder.{DECODER_POSITIONS}")

    def __init__(
        self,
        pretrained: bool | PathOrName = True,
        img_size: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        mask_ratio: float = 0.75,
        masking: Literal["random", "block"] = "random",
        decoder_depth: int = 4,
        norm_pix_loss: bool = True,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_hidden_size: int = 512,
        decoder_num_heads: int = 16,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        if masking not in ("random", "block"):
            raise UserError(f"masking: {masking!r}, must be random or block")
        check_ratio(mask_ratio)
        self.pretrained, self.masking = pretrained, masking
        self.patch_size, self.mask_ratio, self.norm_pix_loss = patch_size, mask_ratio, norm_pix_loss
        self.img_size = (int(img_size[0]), int(img_size[1]))
        decoder = mae_decoder_fields(decoder_hidden_size, decoder_depth, decoder_num_heads)
        config = mae_config(
            self.img_size, patch_size, hidden_size, depth, num_heads, mask_ratio=mask_ratio,
            norm_pix_loss=norm_pix_loss, **decoder,
        )  # fmt: skip
        num_kept(self.num_patches, mask_ratio)
        self.model = ViTMAEForPreTraining(config)
        initialize_positions(self.model)
        if pretrained:
            checkpoint = read_mae(pretrained)
            fill_mae_encoder(self.model.vit, checkpoint)
            if not fill_mae_decoder(self.model, checkpoint):
                log.info("%s: holds no decoder of these sizes; it starts anew", checkpoint.folder)
        if checkpointing:
            enable_checkpointing(self.model)
        self.normalize = PixelNormalization()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def base(self) -> str:
        """Where the weights come from, for people."""
        return describe_base(self.pretrained)

    def compile_blocks(self) -> None:
        """Compiles each block of encoder and decoder in place."""
        for layer in (*self.model.vit.layers, *self.model.decoder.decoder_layers):
            layer.compile()

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> MAEPrediction:
        """Masks, encodes what is left, and predicts every patch.

        Args:
            image: uint8 (0 to 255) or floating point (0 to 1) RGB, (B, 3, H, W) of `img_size`.
            generator: where the masks come from, on any device: one with a fixed seed makes them repeatable. None takes
                PyTorch's.

        Raises:
            UserError: for images of another size.
        """
        pixels = self._pixels(image).to(self.model.vit.embeddings.patch_embeddings.projection.weight.dtype)
        if self.masking == "block":
            noise = block_noise(len(image), self.grid, image.device, generator)
        else:
            noise = random_noise(len(image), self.num_patches, image.device, generator)
        # not the model's own forward, which also computes a loss
        encoded = self.model.vit(pixels, noise=noise)
        decoded = self.model.decoder(encoded.last_hidden_state, encoded.ids_restore)
        return MAEPrediction(decoded.logits, encoded.mask)

    def target(self, image: Tensor) -> Tensor:
        """What is to be predicted of images (B, 3, H, W): (B, N, p * p * 3), in each patch row by row, colours last."""
        patches = self.model.patchify(self._pixels(image))
        if not self.norm_pix_loss:
            return patches
        mean, deviation = patch_statistics(patches)
        return (patches - mean) / deviation

    @torch.no_grad()
    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> MAEPictures:
        """Pictures of what is seen and predicted; arguments as in `forward`.

        With `norm_pix_loss` each removed patch is given its true mean and deviation, which are not predicted.
        """
        prediction = self(image, generator)
        patches = self.model.patchify(self._pixels(image))
        predicted = prediction.reconstruction.to(patches.dtype)
        if self.norm_pix_loss:
            mean, deviation = patch_statistics(patches)
            predicted = predicted * deviation + mean
        masked = apply_mask(patches, prediction.mask)
        rebuilt = apply_mask(patches, prediction.mask, predicted)
        return MAEPictures(*(self.normalize.invert(self.model.unpatchify(x)) for x in (patches, masked, rebuilt)))

    def _pixels(self, image: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W).

        Raises:
            UserError: for images of another size.
        """
        if tuple(image.shape[-2:]) != self.img_size:
            height, width = self.img_size
            raise UserError(
                f"image: {image.shape[-2]} x {image.shape[-1]} pixels, the network takes {height} x {width}; "
                "resize the image or set img_size"
            )
        return self.normalize(image)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch (B, N, p * p * 3), two tensors (B, N, 1)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def save_encoder(network: MaskedAutoencoder, folder: str | Path) -> Path:
    """Writes the encoder as transformers does a ViTMAEModel, for `MAEEncoder(pretrained=folder)`; whole or not at all.

    Raises:
        UserError: if the encoder holds adapters, or the folder exists and is something else.
    """
    return save_mae_encoder(network.model.vit, folder)
