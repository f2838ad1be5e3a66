"""Metrics: one file per subject."""

from eomt.metrics.segmentation import IGNORE_INDEX, SegmentationMetric

__all__ = ["IGNORE_INDEX", "SegmentationMetric"]
