"""Losses: one file per subject."""

from eomt.losses.mask_classification import MaskClassificationLoss
from eomt.losses.morph import MorphLoss, mae_loss
from eomt.losses.prompted_masks import PromptedMaskLoss

__all__ = ["MaskClassificationLoss", "MorphLoss", "PromptedMaskLoss", "mae_loss"]
