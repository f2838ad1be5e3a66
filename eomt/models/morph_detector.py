"""Face morph detection: the encoder of a masked autoencoder, and a classifier of its class token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.models.heads import Head, ProjectionHead, make_classifier
from eomt.models.mae_encoder import MAEEncoder
from eomt.models.mixstyle import MixStyle
from eomt.models.network import Network
from eomt.models.weights.mae import POSITIONS

NUM_CLASSES = 2
MORPH = 1


class MorphPrediction(NamedTuple):
    """The detector's answer to images."""

    logits: Tensor  # (B, 2): bona fide, morph
    features: Tensor  # (B, D), the input of the classifier


class MorphDetector(Network):
    """A classifier of face images: bona fide or morph.

    Beside the encoder it holds `classifier` and, if wanted, `projection_head`: names for trainable_modules.

    Args:
        encoder: A MAEEncoder.
        head: Classifier: linear, mlp (one hidden layer), or cosine, which a CosFace loss needs.
        proj_dim: Width of a projection head before the classifier; None leaves it out.
        proj_hidden_dim: Width of the projection head's hidden layer; None takes the encoder's width.
        cls_hidden_dim: Width of the mlp's hidden layer.
        scale: Scale of the cosine head.
        mixstyle: Layer that mixes the styles of patch tokens in training; None leaves it out.
        mixstyle_blocks: Blocks after which styles are mixed, counted from 0. The last is not allowed: nothing reads its
            patches.

    Raises:
        UserError: If a value is not allowed.
    """

    # adapters have the names of the Hugging Face model
    inner_models = ("encoder.model",)
    # sines and cosines, which training does not change
    frozen_modules = (f"encoder.model.{POSITIONS}",)

    def __init__(
        self,
        encoder: MAEEncoder,
        head: Head = "linear",
        proj_dim: int | None = None,
        proj_hidden_dim: int | None = None,
        cls_hidden_dim: int = 512,
        scale: float = 16.0,
        mixstyle: MixStyle | None = None,
        mixstyle_blocks: Sequence[int] = (0, 1),
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.img_size = encoder.img_size
        self.mixstyle, self.mixstyle_blocks = mixstyle, tuple(mixstyle_blocks)
        # after the last block, the style of patches can no longer reach the class token
        last = encoder.num_blocks - 2
        if mixstyle and (useless := [index for index in self.mixstyle_blocks if not 0 <= index <= last]):
            raise UserError(f"mixstyle_blocks: {useless[0]}; must be 0 to {last}, before the last block")
        width = encoder.embed_dim
        self.projection_head = None if proj_dim is None else ProjectionHead(width, proj_dim, proj_hidden_dim)
        width = proj_dim or width
        self.classifier = make_classifier(head, width, NUM_CLASSES, cls_hidden_dim, scale)
        # images with this score or more count as morphs; NaN until it is chosen; a buffer, so that it is saved
        self.register_buffer("threshold", torch.tensor(float("nan")))

    @property
    def base(self) -> str:
        """Origin of the encoder's weights in words."""
        return self.encoder.base

    def compile_blocks(self) -> None:
        """Compile each block of the encoder in place."""
        self.encoder.compile_blocks()

    def depth_of(self, parameter: str) -> int | None:
        """Return the encoder's layer of a parameter; None for heads."""
        inner = parameter.removeprefix("encoder.")
        return None if inner == parameter else self.encoder.depth_of(inner)

    def forward(self, image: Tensor, label: Tensor | None = None) -> MorphPrediction:
        """Return logits and features of images.

        Args:
            image: RGB images, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W); H and W are multiples of the
                patch size.
            label: Labels (B,), 1 for a morph; only needed in training with MixStyle within classes.

        Raises:
            UserError: If the images have another size.
        """
        # MixStyle changes what stands behind its first block
        fixed = self.encoder.num_blocks if self.mixstyle is None else min(self.mixstyle_blocks, default=0)
        tokens, done = self.encoder.begin(image, fixed)
        for index in range(done, self.encoder.num_blocks):
            tokens = self.encoder.run_block(index, tokens)
            if self.mixstyle is not None and index in self.mixstyle_blocks:
                tokens = self.mixstyle(tokens, label)
        features = self.encoder.norm(tokens)[:, 0]
        if self.projection_head is not None:
            features = self.projection_head(features)
        return MorphPrediction(self.classifier(features), features)

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of a morph, (B,) in fp32, for images as in `forward`."""
        return self(image).logits.float().softmax(1)[:, MORPH]

    def attention_rollout(self, image: Tensor) -> Tensor:
        """Return how much of each patch reaches the class token, (B, h, w); see `MAEEncoder.attention_rollout`."""
        return self.encoder.attention_rollout(image)
