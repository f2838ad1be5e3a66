"""Callbacks: audit, checkpoints, merging, early stopping, pictures, summary."""

from callbacks.adapter_audit import AdapterAudit
from callbacks.anomaly_results import AnomalyResults
from callbacks.answer_results import AnswerResults
from callbacks.early_stopping import EarlyStoppingOnIoU
from callbacks.encoder_on_save import EncoderOnSave
from callbacks.lora_checkpoint import LoRACheckpoint
from callbacks.merge_on_save import MergeOnSave
from callbacks.morph_results import MorphResults
from callbacks.prediction_pictures import PredictionPictures
from callbacks.progress import ProgressBar
from callbacks.reconstruction_pictures import ReconstructionPictures
from callbacks.run_summary import RunSummary

__all__ = [
    "AdapterAudit",
    "AnomalyResults",
    "AnswerResults",
    "EarlyStoppingOnIoU",
    "EncoderOnSave",
    "LoRACheckpoint",
    "MergeOnSave",
    "MorphResults",
    "PredictionPictures",
    "ProgressBar",
    "ReconstructionPictures",
    "RunSummary",
]
