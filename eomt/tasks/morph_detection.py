"""Detection of face morphs."""

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses.morph import MorphLoss
from eomt.metrics.morph import MorphMetric
from eomt.models.heads import CosineClassifier
from eomt.models.morph_detector import MORPH, MorphDetector, MorphPrediction
from eomt.models.parts.processable import can_be_processed
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import data_of
from eomt.utils.trainer import is_trial, sees_part_of_validation

log = logging.getLogger("eomt")

# figures that validation and test log
HEADLINE = ("eer", "auroc", "accuracy", "f1", "macer", "bscer", "bscer_at_macer_5")


class MorphDetection(AdaptationTask):
    """Training and evaluation of a MorphDetector on bona fide faces and morphs.

    Batches: `image`, uint8 `(B, 3, H, W)`; `label`, int64 `(B,)`, 1 = morph; `attack`, `dataset` and `name`, lists of B
    strings.

    Each validation of a fit sets the decision threshold to that of the operating point `threshold_at`. It is the
    buffer `threshold` of the network, so that checkpoints, adapter folders and merged models hold it, and `test` and
    `predict` use it. `val_accuracy` and `val_f1` use the threshold of their own validation. `test_accuracy` and similar
    figures never use a threshold from test images; they are nan before a validation has chosen one.

    Args:
        network: A MorphDetector.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        lr: See AdaptationTask.
        loss: Training loss: cross_entropy, bce, or cosface, which needs `head: cosine`; see MorphLoss.
        class_weights: Weights of bona fide and morph in the training loss.
        margin: Margin of cosface between the cosines.
        threshold_at: Operating point of the decision threshold: eer, the equal error rate; or macer 5, the fewest bona
            fide images rejected while at most 5 percent of the morphs pass; or bscer 5, the other way round.
        rollout: Let `predict` also draw which patches reach the class token (attention rollout).
        **training: Further arguments of AdaptationTask: head_lr, weight_decay, schedule, warmup, compile, memory,
            feature_cache, feature_folder.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_eer"
    mode = "min"
    file_metrics = ("eer", "auroc")
    network_class = MorphDetector
    network: MorphDetector

    def __init__(
        self,
        network: MorphDetector,
        lora_config: LoRAConfig | None = None,
        lr: float = 1e-4,
        loss: Literal["cross_entropy", "bce", "cosface"] = "cross_entropy",
        class_weights: Sequence[float] = (1.0, 1.0),
        margin: float = 0.3,
        threshold_at: str = "eer",
        rollout: bool = False,
        **training: Any,
    ) -> None:
        self.check_network(network)
        cosines = isinstance(network.classifier, CosineClassifier)
        if loss == "cosface" and not cosines:
            raise UserError(f"loss: cosface, but head: {network.head}; set --model.network.head cosine")
        scale = network.classifier.scale if isinstance(network.classifier, CosineClassifier) else 1.0
        super().__init__(network, lora_config, lr=lr, **training)
        self.class_weights, self.rollout = list(class_weights), rollout
        self.criterion = MorphLoss(loss, class_weights, margin, scale)
        # without weights, which would let the mean depend on how images are grouped into batches
        self.evaluation_criterion = MorphLoss(loss, (1.0, 1.0), margin, scale)
        self.train_accuracy, self.evaluation_loss = MeanMetric(), MeanMetric()
        # what a callback measured of baselines on the images of `test`, by figure
        self.baseline_figures: dict[str, float] = {}
        self.val_metric, self.test_metric = MorphMetric(threshold_at=threshold_at), MorphMetric()

    @property
    def threshold(self) -> float:
        """Lowest probability at which an image counts as a morph; nan before a validation has chosen it."""
        return float(self.network.get_buffer("threshold"))

    def on_fit_start(self) -> None:
        """Warn where both sampling and class weights balance the classes."""
        data = data_of(self.trainer)
        if data is not None and data.balanced and len(set(self.class_weights)) > 1:
            log.warning(
                "class_weights: %s with balanced: true: the sampler makes both classes equally frequent, and the "
                "weights correct this a second time; leave one of the two out",
                self.class_weights,
            )

    # -- training ----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], MorphPrediction]:
        """Return the weighted loss of a batch, and the prediction."""
        prediction = self.network(batch["image"], batch["label"])
        return {"loss": self.criterion(prediction.logits, batch["label"])}, prediction

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size; every second one is labeled as a morph."""
        generator = torch.Generator().manual_seed(0)
        size = (batch_size, 3, *self.network.img_size)
        label = torch.arange(batch_size) % 2
        return {
            "image": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
            "label": label,
            "attack": ["synthetic" if morph else "" for morph in label.tolist()],
            "dataset": ["synthetic"] * batch_size,
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the logits, `(B, 2)`."""
        assert isinstance(network, MorphDetector)
        return network(batch["image"]).logits

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: MorphPrediction) -> None:
        """Log `train_accuracy` at the most likely class, which needs no threshold."""
        self.train_accuracy.update((output.logits.argmax(1) == batch["label"]).float())
        if self.ends_logged_step():
            self.log("train_accuracy", self.train_accuracy.compute(), prog_bar=True)
            self.train_accuracy.reset()

    # -- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the metrics, and return `scores` and `processed`, `(B,)` each, as `predict_step` does."""
        return self._evaluate(batch, self.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and in a fit set the threshold."""
        figures = self._log_metric(self.val_metric, "val")
        if math.isnan(figures["eer"]) and not (sees_part_of_validation(self.trainer) or is_trial(self.trainer)):
            raise UserError(
                f"val_eer: validation saw {figures['n_bonafide']:.0f} bona fide images and "
                f"{figures['n_morph']:.0f} morphs; it needs both: give more images or a larger limit_val_batches"
            )
        if self.trainer.state.fn == "fit":
            self.network.get_buffer("threshold").fill_(rounded_up(figures["threshold"]))

    def on_test_epoch_start(self) -> None:
        """Give the metric the threshold that validation has chosen."""
        self.test_metric.threshold = self.threshold
        if math.isnan(self.threshold):
            log.info("No validation has chosen a threshold for this network: there is no accuracy, F1, MACER or BSCER")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the metrics, and return `scores` and `processed`, `(B,)` each, as `predict_step` does."""
        return self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log the main metrics, and keep all of them for the results file."""
        figures = self._log_metric(self.test_metric, "test", self.baseline_figures)
        self.all_figures = {f"test_{name}": value for name, value in figures.items()}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return `scores`, `(B,)`, the probabilities of a morph, and with `rollout` also `rollout`, `(B, h, w)`.

        `processed`, bool `(B,)`, is false where an image shows nothing; see `can_be_processed`.
        """
        answer = {"scores": self.network.scores(batch["image"]), "processed": can_be_processed(batch["image"])}
        return answer | ({"rollout": self.network.attention_rollout(batch["image"])} if self.rollout else {})

    def _evaluate(self, batch: dict[str, Any], metric: MorphMetric) -> dict[str, Tensor]:
        logits = self.network(batch["image"]).logits.float()
        scores = logits.softmax(1)[:, MORPH]
        metric.update(scores, batch["label"], batch["attack"], batch["dataset"], batch["name"])
        # samples without a name only complete the last step of a rank, and do not count
        real = [index for index, name in enumerate(batch["name"]) if name]
        if real:
            loss = self.evaluation_criterion(logits[real], batch["label"][real])
            self.evaluation_loss.update(loss, len(real))
        return {"scores": scores, "processed": can_be_processed(batch["image"])}

    def _log_metric(
        self, metric: MorphMetric, stage: str, baselines: Mapping[str, float] = MappingProxyType({})
    ) -> dict[str, float]:
        """Log the main figures, and return all of them with those of the baselines."""
        own: dict[str, float] = metric.compute()
        figures = own | dict(baselines)
        # the metrics have gathered from all ranks already; sync_dist only tells Lightning so
        self.log(f"{stage}_loss", self.evaluation_loss.compute(), sync_dist=True)
        shown = {name: figures[name] for name in HEADLINE}
        several = sum(name.startswith("eer/") and name.count("/") == 1 for name in own) > 1
        # for each attack, and each of several data sets, only EERs; the results of `test` have the rest
        for eer in ("eer", *(name for name in baselines if name.startswith("eer") and f"{name}_low" in baselines)):
            shown |= {name: figures[name] for name in (eer, *([f"{eer}_worst_set"] if several else []))}
            of_parts = {name: value for name, value in figures.items() if name.startswith(f"{eer}/")}
            shown |= {name: value for name, value in of_parts.items() if several or name.count("/") == 2}
        for name, value in shown.items():
            self.log(f"{stage}_{name}", value, prog_bar=name in ("eer", "auroc"), sync_dist=True)
        metric.reset()
        self.evaluation_loss.reset()
        return figures


def rounded_up(threshold: float) -> float:
    """Return the smallest fp32 number at or above a threshold; nan stays nan.

    Scores are fp32, so it separates them exactly as the threshold does.
    """
    rounded = np.float32(threshold)
    # compared in fp64, since numpy would round the threshold to fp32 for a comparison with an fp32 number
    return float(np.nextafter(rounded, np.float32(np.inf)) if float(rounded) < threshold else rounded)
