"""LightningModules, one per task."""

from eomt.tasks.semantic_segmentation import SemanticSegmentation

__all__ = ["SemanticSegmentation"]
