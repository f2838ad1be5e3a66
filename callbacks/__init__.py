"""Callbacks: audit, checkpoints, merging, early stopping, pictures, summary."""

from callbacks.adapter_audit import AdapterAudit
from callbacks.early_stopping import EarlyStoppingOnIoU
from callbacks.lora_checkpoint import LoRACheckpoint
from callbacks.merge_on_save import MergeOnSave
from callbacks.prediction_pictures import PredictionPictures
from callbacks.progress import ProgressBar
from callbacks.run_summary import RunSummary

__all__ = [
    "AdapterAudit",
    "EarlyStoppingOnIoU",
    "LoRACheckpoint",
    "MergeOnSave",
    "PredictionPictures",
    "ProgressBar",
    "RunSummary",
]
