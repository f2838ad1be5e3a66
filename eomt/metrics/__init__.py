"""Metrics: one file per subject."""

from eomt.metrics.morph import MorphMetric
from eomt.metrics.prompted import PromptedSegmentationMetric
from eomt.metrics.segmentation import SegmentationMetric

__all__ = ["MorphMetric", "PromptedSegmentationMetric", "SegmentationMetric"]
