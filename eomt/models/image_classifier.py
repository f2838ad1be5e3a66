"""Image classification: an encoder, what is pooled of its tokens, and a classifier."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.encoder import TokenEncoder
from eomt.models.frozen_features import is_frozen, weights_of
from eomt.models.heads import Head, make_classifier
from eomt.models.network import Arguments, Network
from eomt.models.timm_encoder import TimmEncoder
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE
from eomt.utils.loaded import mark_loaded
from eomt.utils.paths import PathOrName, expand_source

Pooling = Literal["cls", "mean", "cls+mean"]


class ImageClassifier(Network):
    """A classifier of whole images.

    Beside the encoder it holds `classifier`, which is trained in full beside adapters, since no file fills it.

    Args:
        encoder: A ViT, a MAEEncoder, or any other model of timm's as a TimmEncoder.
        num_classes: Number of classes C. With a config it comes from the data.
        pooling: What the classifier sees of the encoder's tokens: the class token, the mean of the patches, or both one
            after the other, as linear probes of DINOv2 do.
        head: Classifier: linear, mlp (one hidden layer), or cosine.
        hidden_dim: Width of the mlp's hidden layer.
        scale: Scale of the cosine head.
        multi_label: Whether an image may have any number of the classes, each with a probability of its own; else it
            has one. With a config it comes from the data; null is false.
        pretrained: Weights of a whole classifier with a linear head in Hugging Face layout, as `write` makes it: a
            folder or a repository. They include the encoder's, which should have `pretrained: false`. False starts from
            the encoder's weights and a new classifier.

    Raises:
        UserError: If a value is not allowed, or weights cannot be read or do not fit.
    """

    files = Network.files | {CONFIG_FILE, PREPROCESSOR_FILE}

    def __init__(
        self,
        encoder: TokenEncoder,
        num_classes: int | None = None,
        pooling: Pooling = "cls",
        head: Head = "linear",
        hidden_dim: int = 512,
        scale: float = 16.0,
        multi_label: bool | None = None,
        pretrained: bool | PathOrName = False,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        if not isinstance(encoder, TokenEncoder):
            raise UserError(f"encoder: {type(encoder).__name__}; must be an eomt.models.ViT, MAEEncoder or TimmEncoder")
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes: {num_classes!r}; must be at least 1 (with a config it comes from the data)")
        if num_classes < 2 and not multi_label:
            raise UserError("num_classes: 1; there is nothing to choose between, give images of a second class")
        if pooling not in ("cls", "mean", "cls+mean"):
            raise UserError(f"pooling: {pooling!r}; must be cls, mean or cls+mean")
        if pooling != "mean" and not encoder.has_class_token:
            raise UserError(f"pooling: {pooling}, but the encoder has no class token; give mean")
        if pooling != "cls" and isinstance(encoder, TimmEncoder) and not encoder.has_places:
            raise UserError(f"pooling: {pooling}, but {encoder.backbone_name} gives what it pools alone; give cls")
        self.encoder, self.pooling, self.head = encoder, pooling, head
        self.num_classes, self.multi_label, self.pretrained = num_classes, bool(multi_label), pretrained
        self.img_size, self.in_chans = encoder.img_size, encoder.in_chans
        self.classifier = make_classifier(head, self.feature_dim, num_classes, hidden_dim, scale)
        if pretrained is True:
            raise UserError("pretrained: true; must be false, or a folder or repository with a whole classifier")
        if pretrained:
            from eomt.models.weights.classifier.load import load_classifier

            loaded = load_classifier(self, pretrained)
            mark_loaded(self, loaded.names)
            self.class_names = loaded.class_names

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def feature_dim(self) -> int:
        """Width F of what is pooled."""
        return self.encoder.embed_dim * (2 if self.pooling == "cls+mean" else 1)

    @property
    def inner_models(self) -> tuple[str, ...]:
        """The encoder's model: adapters have its names."""
        return tuple(f"encoder.{name}" for name in self.encoder.inner_models)

    @property
    def frozen_modules(self) -> tuple[str, ...]:
        """Those of the encoder."""
        return tuple(f"encoder.{name}" for name in self.encoder.frozen_modules)

    @property
    def keeps_statistics(self) -> tuple[str, ...]:
        """Those of the encoder."""
        return tuple(f"encoder.{name}" for name in self.encoder.keeps_statistics)

    @property
    def new_modules(self) -> tuple[str, ...]:
        """The classifier, unless the given weights filled it."""
        return () if self.pretrained else ("classifier",)

    @property
    def base(self) -> str:
        """Origin of the weights in words: the whole network's, else the encoder's."""
        return self.pretrained if isinstance(self.pretrained, str) else self.encoder.base

    def compile_blocks(self) -> None:
        """Compile each block of the encoder in place."""
        self.encoder.compile_blocks()

    def depth_of(self, parameter: str) -> int | None:
        """Return the encoder's layer of a parameter; None for the classifier."""
        inner = parameter.removeprefix("encoder.")
        return None if inner == parameter else self.encoder.depth_of(inner)

    # -- answers -----------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of images, (B, C).

        Args:
            image: Images, uint8 (0 to 255) or floating point (0 to 1), (B, C, H, W), the first three channels red,
                green and blue; H and W are multiples of the patch size.

        Raises:
            UserError: If the images have another size.
        """
        return self.classifier(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """Return what the classifier sees of images as in `forward`, (B, F); kept where the encoder is frozen."""
        below = weights_of(self.encoder)
        if not is_frozen(below):
            return self._pooled(image)

        def pooled(images: Tensor) -> tuple[Tensor]:
            # a row is kept of each image, and not its tokens too
            cache, self.encoder.feature_cache = self.encoder.feature_cache, None
            try:
                return (self._pooled(images),)
            finally:
                self.encoder.feature_cache = cache

        (features,) = self.frozen_features(f"encoder, {self.pooling}", image, self.encoder, below, pooled)
        return features

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class in fp32, (B, C): they sum to 1, but for `multi_label`."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(1)

    def scores(self, image: Tensor) -> Tensor:
        """Return the probability of each class, (B, C) in fp32, for images as in `forward`."""
        return self.probabilities(self(image))

    def _pooled(self, image: Tensor) -> Tensor:
        tokens = self.encoder.tokens(image)
        if self.pooling == "cls":
            return tokens[:, 0]
        mean = tokens[:, self.encoder.num_prefix_tokens :].mean(1)
        return mean if self.pooling == "mean" else torch.cat((tokens[:, 0], mean), 1)

    # -- files -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write into a folder that exists, in Hugging Face layout where it has a form for this network.

        Raises:
            UserError: If the network holds adapters.
        """
        from eomt.models.weights.classifier.save import obstacle, write_classifier

        require_merged(self)
        if obstacle(self) is None:
            write_classifier(self, folder)
        else:
            super().write(folder)

    def write_hugging_face(self, folder: Path) -> None:
        """Write what `transformers.AutoModelForImageClassification` opens into a folder that exists.

        Raises:
            UserError: If the network holds adapters, or that layout has no form for it.
        """
        from eomt.models.weights.classifier.save import obstacle, write_classifier

        require_merged(self)
        if reason := obstacle(self):
            raise UserError(f"{folder}: not written for transformers: {reason}; merge it into a folder of eomt's own")
        write_classifier(self, folder)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `folder` holds Hugging Face's layout."""
        return (folder / CONFIG_FILE).is_file()

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Switch the encoder's `pretrained` off where the weights of the whole network are given."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        if isinstance(arguments.get("pretrained"), str) and encoder.get("pretrained") is True:
            encoder["pretrained"] = False

    @classmethod
    def classes_of(cls, arguments: Arguments) -> int | None:
        """Return the number of classes of the weights in `pretrained`; None without such weights."""
        from eomt.models.weights.classifier.load import classes_in

        pretrained = arguments.get("pretrained")
        return classes_in(pretrained) if isinstance(pretrained, str) else None
