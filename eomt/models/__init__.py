"""Networks: plain torch modules that work without Lightning."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from eomt.models.eomt import EoMT
    from eomt.models.image_classifier import ImageClassifier
    from eomt.models.mae import MaskedAutoencoder
    from eomt.models.mae_encoder import MAEEncoder
    from eomt.models.mixstyle import MixStyle
    from eomt.models.morph_detector import MorphDetector
    from eomt.models.sam2 import SAM2
    from eomt.models.timm_encoder import TimmEncoder
    from eomt.models.vit import ViT
    from eomt.models.vqa import DeterministicVQA

__all__ = [
    "SAM2",
    "DeterministicVQA",
    "EoMT",
    "ImageClassifier",
    "MAEEncoder",
    "MaskedAutoencoder",
    "MixStyle",
    "MorphDetector",
    "TimmEncoder",
    "ViT",
]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "EoMT": "eomt.models.eomt",
        "ImageClassifier": "eomt.models.image_classifier",
        "MaskedAutoencoder": "eomt.models.mae",
        "MAEEncoder": "eomt.models.mae_encoder",
        "MixStyle": "eomt.models.mixstyle",
        "MorphDetector": "eomt.models.morph_detector",
        "SAM2": "eomt.models.sam2",
        "TimmEncoder": "eomt.models.timm_encoder",
        "ViT": "eomt.models.vit",
        "DeterministicVQA": "eomt.models.vqa",
    },
)
