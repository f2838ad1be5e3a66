"""Losses: one file per subject."""

from eomt.losses.mask_classification import MaskClassificationLoss

__all__ = ["MaskClassificationLoss"]
