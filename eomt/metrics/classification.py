"""Metrics of image classification, by torchmetrics, and what an answer that looks at no image is worth."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryCalibrationError,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelConfusionMatrix,
    MultilabelExactMatch,
    MultilabelF1Score,
)

# of probabilities, for the expected calibration error (Guo et al., ICML 2017, arXiv:1706.04599)
BINS = 15
# with more classes, ranks are measured at so many thresholds, and no probability is kept
MOST_EXACT, THRESHOLDS = 100, 200


class ClassificationMetric(nn.Module):
    """Figures of images, put together from all processes, or of one alone.

    Means over classes are over those that the images show, and for ranks also lack.

    Args:
        num_classes: Number of classes C.
        multi_label: Whether an image may have any number of them.
        is_alone: Whether only this process measures; with the others it would wait for them for ever.
    """

    def __init__(self, num_classes: int, multi_label: bool, is_alone: bool = False) -> None:
        super().__init__()
        together: Any = {"sync_on_compute": not is_alone}
        self.num_classes, self.multi_label = num_classes, multi_label
        thresholds = None if num_classes <= MOST_EXACT else THRESHOLDS
        if multi_label:
            self.metrics = MetricCollection(
                {
                    "map": MultilabelAveragePrecision(num_classes, average=None, thresholds=thresholds, **together),
                    "f1": MultilabelF1Score(num_classes, average=None, **together),
                    "auroc": MultilabelAUROC(num_classes, average=None, thresholds=thresholds, **together),
                    "exact_match": MultilabelExactMatch(num_classes, **together),
                    "confusion": MultilabelConfusionMatrix(num_classes, **together),
                }
            )
            self.calibration: Metric = BinaryCalibrationError(n_bins=BINS, **together)
        else:
            self.metrics = MetricCollection(
                {
                    "accuracy": MulticlassAccuracy(num_classes, average="micro", **together),
                    "f1": MulticlassF1Score(num_classes, average=None, **together),
                    "auroc": MulticlassAUROC(num_classes, average=None, thresholds=thresholds, **together),
                    "confusion": MulticlassConfusionMatrix(num_classes, **together),
                }
            )
            self.calibration = MulticlassCalibrationError(num_classes, n_bins=BINS, **together)

    @property
    def confusion(self) -> Tensor:
        """Images of this process of each true class (row) by what was answered (column), int64 `(C, C)`."""
        return torch.as_tensor(self.metrics["confusion"].confmat)

    def update(self, probabilities: Tensor, label: Tensor) -> None:
        """Add images.

        Args:
            probabilities: fp32 `(B, C)`.
            label: int64 `(B,)`; of several labels 0 and 1, `(B, C)`.
        """
        if not len(label):
            return
        label = label.long()
        self.metrics.update(probabilities, label)
        flat = (probabilities.flatten(), label.flatten()) if self.multi_label else (probabilities, label)
        self.calibration.update(*flat)

    def compute(self, class_names: Sequence[str]) -> dict[str, float]:
        """Return the figures of everything that was added in all processes; nan where there is nothing.

        Returns:
            One class each: `accuracy`, `f1` (macro), `auroc` (macro, one class against the rest), `ece`, and
            `f1/<class>`. Several labels: `map`, the mean over labels of the average precision, `f1` (macro, at
            probability 0.5), `auroc`, `ece`, `exact_match`, and `map/<label>`.
        """
        if not self.metrics["confusion"].update_called:
            return dict.fromkeys(self.headline, math.nan)
        found = self.metrics.compute()
        shown, absent = self._support(found["confusion"])
        of_class = found["map" if self.multi_label else "f1"]
        figures: dict[str, float] = {name: float(found[name]) for name in ("accuracy", "exact_match") if name in found}
        figures |= {"f1": _mean(found["f1"], shown), "auroc": _mean(found["auroc"], shown & absent)}
        if self.multi_label:
            figures["map"] = _mean(found["map"], shown)
        figures["ece"] = float(self.calibration.compute())
        part = "map" if self.multi_label else "f1"
        figures |= {
            f"{part}/{name}": float(value) if seen else math.nan
            for name, value, seen in zip(class_names, of_class, shown.tolist(), strict=True)
        }
        return figures

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the figures that are no class's."""
        return ("map", "f1", "auroc", "ece", "exact_match") if self.multi_label else ("accuracy", "f1", "auroc", "ece")

    def constant_figures(self, counts: Sequence[int]) -> dict[str, float]:
        """Return what one answer to all images is worth, that the training images suggest.

        Args:
            counts: Training images that show each class.

        Returns:
            `majority_accuracy` and `majority_f1`, of the most frequent class; or `constant_map`, of one order of all.
        """
        if not self.metrics["confusion"].update_called:
            return {}
        shown = self._counts(self.metrics["confusion"].compute())
        if self.multi_label:
            total, positive = shown
            present = positive > 0
            return {"constant_map": float((positive / total)[present].mean()) if present.any() else math.nan}
        total, of_class = shown
        share = float(of_class[max(range(len(counts)), key=lambda index: counts[index])] / total)
        return {"majority_accuracy": share, "majority_f1": 2 * share / (1 + share) / int((of_class > 0).sum())}

    def reset(self) -> None:
        """Forget everything."""
        self.metrics.reset()
        self.calibration.reset()

    def _counts(self, confusion: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of images, and of those that show each class, `(C,)`."""
        if self.multi_label:
            return confusion.sum((1, 2))[0], confusion[:, 1].sum(1)
        return confusion.sum(), confusion.sum(1)

    def _support(self, confusion: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each class whether an image shows it, and whether one does not."""
        total, shown = self._counts(confusion)
        return shown > 0, shown < total


def _mean(values: Tensor, counted: Tensor) -> float:
    return float(values[counted].mean()) if counted.any() else math.nan
