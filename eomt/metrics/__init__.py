"""Metrics: one file per subject."""

from eomt.metrics.morph import MorphMetric
from eomt.metrics.prompted import PromptedSegmentationMetric
from eomt.metrics.segmentation import IGNORE_INDEX, SegmentationMetric

__all__ = ["IGNORE_INDEX", "MorphMetric", "PromptedSegmentationMetric", "SegmentationMetric"]
