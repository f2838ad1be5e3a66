"""LightningModules, one for each task."""

from eomt.tasks.masked_autoencoding import MaskedAutoencoding
from eomt.tasks.morph_detection import MorphDetection
from eomt.tasks.prompted_segmentation import PromptedSegmentation
from eomt.tasks.semantic_segmentation import SemanticSegmentation
from eomt.tasks.visual_question_answering import VisualQuestionAnswering

__all__ = [
    "MaskedAutoencoding",
    "MorphDetection",
    "PromptedSegmentation",
    "SemanticSegmentation",
    "VisualQuestionAnswering",
]
