"""Metrics: one file per subject."""

from eomt.metrics.morph import MorphMetric
from eomt.metrics.prompted import PromptedSegmentationMetric
from eomt.metrics.segmentation import SegmentationMetric
from eomt.utils.labels import IGNORE_INDEX

__all__ = ["IGNORE_INDEX", "MorphMetric", "PromptedSegmentationMetric", "SegmentationMetric"]
