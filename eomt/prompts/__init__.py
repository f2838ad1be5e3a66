"""Prompts of interactive segmentation: drawn at random for training, fixed by a hash for evaluation."""

from eomt.prompts.coordinates import PADDING_LABEL, Prompts, tight_boxes
from eomt.prompts.evaluation_prompts import MODES, evaluation_prompts, stack_prompts
from eomt.prompts.training_prompts import (
    PromptSampling,
    add_correction,
    sample_box,
    sample_correction,
    sample_objects,
    sample_point,
    sample_prompts,
)

__all__ = [
    "MODES",
    "PADDING_LABEL",
    "PromptSampling",
    "Prompts",
    "add_correction",
    "evaluation_prompts",
    "sample_box",
    "sample_correction",
    "sample_objects",
    "sample_point",
    "sample_prompts",
    "stack_prompts",
    "tight_boxes",
]
