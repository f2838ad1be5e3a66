"""What a model says of an image: answers that draw themselves, and become COCO JSON, PNG or rows of a table."""

from eomt.results.answers import AnswerResult, MorphResult, ReconstructionResult
from eomt.results.classes import ClassificationResult
from eomt.results.coco import coco_document
from eomt.results.label_files import save_labels
from eomt.results.masks import MasksResult
from eomt.results.objects import InstanceResult, PanopticResult
from eomt.results.result import Result, save_results
from eomt.results.segmentation import SegmentationResult

__all__ = [
    "AnswerResult",
    "ClassificationResult",
    "InstanceResult",
    "MasksResult",
    "MorphResult",
    "PanopticResult",
    "ReconstructionResult",
    "Result",
    "SegmentationResult",
    "coco_document",
    "save_labels",
    "save_results",
]
