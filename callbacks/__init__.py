"""Callbacks: audit, checkpoints, merging, early stopping, results, pictures, summary."""

from callbacks.pictures.predictions import PredictionPictures
from callbacks.pictures.reconstructions import ReconstructionPictures
from callbacks.results.anomalies import AnomalyResults
from callbacks.results.answers import AnswerResults
from callbacks.results.classification import ClassificationResults
from callbacks.results.label_files import LabelFiles
from callbacks.results.morphs import MorphResults
from callbacks.results.prediction_files import PredictionFiles
from callbacks.results.report_on_test import ReportOnTest
from callbacks.results.segmentation import SegmentationResults
from callbacks.run.adapter_audit import AdapterAudit
from callbacks.run.divergence import DivergenceGuard
from callbacks.run.early_stopping import EarlyStoppingOnIoU
from callbacks.run.encoder_on_save import EncoderOnSave
from callbacks.run.lora_checkpoint import LoRACheckpoint
from callbacks.run.merge_on_save import MergeOnSave
from callbacks.run.progress import ProgressBar
from callbacks.run.run_summary import RunSummary

__all__ = [
    "AdapterAudit",
    "AnomalyResults",
    "AnswerResults",
    "ClassificationResults",
    "DivergenceGuard",
    "EarlyStoppingOnIoU",
    "EncoderOnSave",
    "LabelFiles",
    "LoRACheckpoint",
    "MergeOnSave",
    "MorphResults",
    "PredictionFiles",
    "PredictionPictures",
    "ProgressBar",
    "ReconstructionPictures",
    "ReportOnTest",
    "RunSummary",
    "SegmentationResults",
]
