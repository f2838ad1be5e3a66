"""Metrics: one file per subject."""

from typing import TYPE_CHECKING

from eomt.utils.lazy import lazily

if TYPE_CHECKING:
    from eomt.metrics.average_precision import MaskAveragePrecision
    from eomt.metrics.morph import MorphMetric
    from eomt.metrics.panoptic_quality import PanopticQuality
    from eomt.metrics.prompted import PromptedSegmentationMetric
    from eomt.metrics.segmentation import SegmentationMetric

__all__ = [
    "MaskAveragePrecision",
    "MorphMetric",
    "PanopticQuality",
    "PromptedSegmentationMetric",
    "SegmentationMetric",
]

# what runs exported graphs needs small modules beside these, and not the libraries that these load
__getattr__ = lazily(
    __name__,
    {
        "MaskAveragePrecision": "eomt.metrics.average_precision",
        "MorphMetric": "eomt.metrics.morph",
        "PanopticQuality": "eomt.metrics.panoptic_quality",
        "PromptedSegmentationMetric": "eomt.metrics.prompted",
        "SegmentationMetric": "eomt.metrics.segmentation",
    },
)
