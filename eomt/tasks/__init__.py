"""LightningModules, one for each task."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from eomt.tasks.image_classification import ImageClassification
    from eomt.tasks.instance_segmentation import InstanceSegmentation
    from eomt.tasks.masked_autoencoding import MaskedAutoencoding
    from eomt.tasks.morph_detection import MorphDetection
    from eomt.tasks.panoptic_segmentation import PanopticSegmentation
    from eomt.tasks.prompted_segmentation import PromptedSegmentation
    from eomt.tasks.semantic_segmentation import SemanticSegmentation
    from eomt.tasks.visual_question_answering import VisualQuestionAnswering

__all__ = [
    "ImageClassification",
    "InstanceSegmentation",
    "MaskedAutoencoding",
    "MorphDetection",
    "PanopticSegmentation",
    "PromptedSegmentation",
    "SemanticSegmentation",
    "VisualQuestionAnswering",
]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "ImageClassification": "eomt.tasks.image_classification",
        "InstanceSegmentation": "eomt.tasks.instance_segmentation",
        "MaskedAutoencoding": "eomt.tasks.masked_autoencoding",
        "MorphDetection": "eomt.tasks.morph_detection",
        "PanopticSegmentation": "eomt.tasks.panoptic_segmentation",
        "PromptedSegmentation": "eomt.tasks.prompted_segmentation",
        "SemanticSegmentation": "eomt.tasks.semantic_segmentation",
        "VisualQuestionAnswering": "eomt.tasks.visual_question_answering",
    },
)
