"""Networks: plain modules, usable without Lightning."""

from eomt.models.eomt import EoMT
from eomt.models.sam2 import SAM2
from eomt.models.vit import ViT

__all__ = ["SAM2", "EoMT", "ViT"]
