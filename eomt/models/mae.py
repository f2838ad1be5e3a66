"""A masked autoencoder for pre-training on unlabeled images, with transformers' `ViTMAEForPreTraining`.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 (arXiv:2111.06377).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import ViTMAEForPreTraining

from eomt.errors import UserError
from eomt.models.mae_encoder import describe_base
from eomt.models.masking import apply_mask, block_noise, check_ratio, num_kept, random_noise
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.parts.recomputing import RecomputingNetwork
from eomt.models.weights.mae import (
    DECODER_POSITIONS,
    POSITIONS,
    fill_mae_decoder,
    fill_mae_encoder,
    initialize_mae,
    mae_config,
    mae_decoder_fields,
    read_mae,
    save_mae_encoder,
)
from eomt.utils.paths import PathOrName, expand_source

log = logging.getLogger("eomt")

# added to the variance of a patch before the division, as in the authors' code
EPSILON = 1e-6


class MAEPrediction(NamedTuple):
    """The decoder's prediction of all patches."""

    reconstruction: Tensor  # (B, N, p * p * 3), to be compared with `MaskedAutoencoder.target`
    mask: Tensor  # (B, N), 1 where a patch was removed


class MAEPictures(NamedTuple):
    """Pictures for people, uint8 (B, 3, H, W) each."""

    image: Tensor
    masked: Tensor  # removed patches in the mean color
    reconstruction: Tensor  # removed patches as predicted, the others unchanged


class MaskedAutoencoder(RecomputingNetwork):
    """ViT-MAE that reconstructs the patches which it does not see.

    Encoder and decoder each have positions, and the decoder has a learned mask token. LoRA's `query`, `attention` and
    similar words also match the decoder: name `decoder` in exclude_modules, or in trainable_modules.

    Args:
        pretrained: True takes facebook/vit-mae-base from the hub (Meta's weights are CC-BY-NC-4.0: no commercial use).
            A text is a folder in Hugging Face layout of a ViTMAEForPreTraining or ViTMAEModel, or a repository. False
            starts from scratch. The encoder must have the sizes given here. The decoder is read if it has the sizes
            given here (the released one has a depth of 8); otherwise a new one is initialized.
        img_size: Height and width in pixels, a square; positions that are read are resampled to it.
        patch_size: Side p of a patch in pixels.
        mask_ratio: Share of the patches that are removed, above 0 and below 1.
        masking: Remove patches at random, or in blocks.
        decoder_depth: Number of the decoder's blocks.
        norm_pix_loss: Predict each patch minus its mean, divided by its deviation.
        hidden_size: Width of the encoder.
        depth: Number of the encoder's blocks.
        num_heads: Attention heads of the encoder.
        decoder_hidden_size: Width of the decoder.
        decoder_num_heads: Attention heads of the decoder.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: If a size or the ratio is impossible, or weights are not available or do not fit.
    """

    # adapters have the names of the Hugging Face model
    inner_models = ("model",)
    # sines and cosines, which training does not change
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
            raise UserError(f"masking: {masking!r}; must be random or block")
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
        initialize_mae(self.model)
        if pretrained:
            checkpoint = read_mae(pretrained)
            fill_mae_encoder(self.model.vit, checkpoint)
            if not fill_mae_decoder(self.model, checkpoint):
                log.info("%s: holds no decoder of these sizes; a new one is initialized", checkpoint.folder)
        if checkpointing:
            self.checkpointing = True
        self.normalize = PixelNormalization()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """Number N of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def base(self) -> str:
        """Origin of the weights in words."""
        return describe_base(self.pretrained)

    def compile_blocks(self) -> None:
        """Compile each block of encoder and decoder in place."""
        for layer in (*self.model.vit.layers, *self.model.decoder.decoder_layers):
            layer.compile()

    def forward(
        self, image: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None
    ) -> MAEPrediction:
        """Mask images, encode the patches that are left, and predict every patch.

        Args:
            image: RGB images of `img_size`, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W).
            generator: Random generator of the masks, on any device, or one for each image; with a fixed seed they are
                repeatable. None takes PyTorch's default.

        Raises:
            UserError: If the images have another size.
        """
        pixels = self._pixels(image).to(self.model.vit.embeddings.patch_embeddings.projection.weight.dtype)
        if isinstance(generator, Sequence):
            noise = torch.cat([self._noise(1, image.device, of_image) for of_image in generator])
        else:
            noise = self._noise(len(image), image.device, generator)
        # the model's own forward would also compute a loss
        encoded = self.model.vit(pixels, noise=noise)
        decoded = self.model.decoder(encoded.last_hidden_state, encoded.ids_restore)
        return MAEPrediction(decoded.logits, encoded.mask)

    def _noise(self, batch: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Return noise (B, N), whose largest values are where patches are removed."""
        if self.masking == "block":
            return block_noise(batch, self.grid, device, generator)
        return random_noise(batch, self.num_patches, device, generator)

    def target(self, image: Tensor) -> Tensor:
        """Return the target for images (B, 3, H, W): patches (B, N, p * p * 3), each row by row, colors last."""
        patches = self.model.patchify(self._pixels(image))
        if not self.norm_pix_loss:
            return patches
        mean, deviation = patch_statistics(patches)
        return (patches - mean) / deviation

    @torch.no_grad()
    def reconstruct(
        self, image: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None
    ) -> MAEPictures:
        """Return pictures of what is seen and what is predicted; arguments as in `forward`.

        With `norm_pix_loss` each removed patch gets its true mean and deviation, which are not predicted.
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
        """Return normalized pixels, (B, 3, H, W).

        Raises:
            UserError: If the images have another size.
        """
        if tuple(image.shape[-2:]) != self.img_size:
            height, width = self.img_size
            raise UserError(
                f"image: {image.shape[-2]} x {image.shape[-1]} pixels, the network takes {height} x {width}; "
                "resize the image or set img_size"
            )
        return self.normalize(image)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each patch, (B, N, 1) each, from patches (B, N, p * p * 3)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def save_encoder(network: MaskedAutoencoder, folder: str | Path) -> Path:
    """Write the encoder as transformers writes a ViTMAEModel, for `MAEEncoder(pretrained=folder)`; return the folder.

    Args:
        network: A masked autoencoder.
        folder: Folder that is written, whole or not at all.

    Raises:
        UserError: If the encoder holds adapters, or the folder exists and is something else.
    """
    return save_mae_encoder(network.model.vit, folder)
