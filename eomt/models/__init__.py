"""Networks: plain torch modules that work without Lightning."""

from eomt.models.eomt import EoMT
from eomt.models.mae import MaskedAutoencoder
from eomt.models.mae_encoder import MAEEncoder
from eomt.models.mixstyle import MixStyle
from eomt.models.morph_detector import MorphDetector
from eomt.models.sam2 import SAM2
from eomt.models.vit import ViT
from eomt.models.vqa import DeterministicVQA

__all__ = ["SAM2", "DeterministicVQA", "EoMT", "MAEEncoder", "MaskedAutoencoder", "MixStyle", "MorphDetector", "ViT"]
