"""What the files of an image classifier hold of it; networks import them, and not the other way round."""

from typing import Any, Protocol

from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import ViTMAEModel


class ClassifierParts(Protocol):
    """The parts of an `eomt.models.ImageClassifier`."""

    encoder: Any
    classifier: nn.Module
    num_classes: int
    multi_label: bool
    pooling: Any
    head: Any
    img_size: tuple[int, int]
    in_chans: int
    class_names: list[str] | None


def mae_of(network: ClassifierParts) -> ViTMAEModel | None:
    """Return the model of an encoder that is a MAEEncoder; None for another."""
    found = getattr(network.encoder, "model", None)
    return found if isinstance(found, ViTMAEModel) else None


def vit_of(network: ClassifierParts) -> VisionTransformer | None:
    """Return the model of an encoder that is a plain ViT of timm, whose positions are learned; None for another."""
    found = getattr(network.encoder, "backbone", None)
    return found if isinstance(found, VisionTransformer) else None
