"""Metrics: one file per subject."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from eomt.metrics.morph import MorphMetric
    from eomt.metrics.prompted import PromptedSegmentationMetric
    from eomt.metrics.segmentation import SegmentationMetric

__all__ = ["MorphMetric", "PromptedSegmentationMetric", "SegmentationMetric"]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "MorphMetric": "eomt.metrics.morph",
        "PromptedSegmentationMetric": "eomt.metrics.prompted",
        "SegmentationMetric": "eomt.metrics.segmentation",
    },
)
