"""LightningModules, one per task."""

from eomt.tasks.prompted_segmentation import PromptedSegmentation
from eomt.tasks.semantic_segmentation import SemanticSegmentation

__all__ = ["PromptedSegmentation", "SemanticSegmentation"]
