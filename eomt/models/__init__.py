"""Networks: plain modules, usable without Lightning."""

from eomt.models.eomt import EoMT
from eomt.models.vit import ViT

__all__ = ["EoMT", "ViT"]
