"""What a classifier said of each test image, its gravest mistakes, and what the base's features are worth untrained."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage, check_num_samples
from callbacks.pictures.answers import AnswerSample, answer_sheet
from callbacks.pictures.output import show_picture
from callbacks.results.class_answers import ClassAnswer
from callbacks.results.tables import file_of_test, gather_rows, write_table
from callbacks.run.saved_state import RIVAL_STATE, checked_state
from eomt.lora.config import adaptation
from eomt.lora.layers import disable_adapters
from eomt.metrics.classification import ClassificationMetric
from eomt.models.image_classifier import ImageClassifier
from eomt.tasks.data import LabelData, class_names_of, data_of
from eomt.tasks.image_classification import ImageClassification
from eomt.utils.images import shown_channels
from eomt.utils.modes import evaluation_mode
from eomt.utils.sharded import is_sharded
from eomt.utils.trainer import is_trial

log = logging.getLogger("eomt")

COLUMNS = ("name", "truth", "label", "confidence", "right")
# training images of each class that make its mean
MOST_OF_CLASS = 100


class ClassificationResults(EvaluationCallback[ImageClassification]):
    """Logs a rival and writes files into the run's folder; for ImageClassification.

    Before a fit, where images have one class each: `val_class_mean_accuracy` and `val_class_mean_f1`, of the class
    whose mean of the base's features is nearest, as a cosine, by up to 100 training images of each class. It trains
    nothing, and stands beside every validation. `test_class_mean_accuracy` and `test_class_mean_f1` are measured before
    a test, with adapters switched off; not of weights that hold the base no more, as merged ones.

    `pictures/val_step000500.png`, `validate.png` and `test.png`: the images that were answered wrongly with most
    confidence, with truth, answer and confidence. After `test`, beside RunSummary's `results/<timestamp>_eval.json`:
    `..._labels.csv` (name, truth, label, confidence, right).

    Args:
        num_samples: How many images a picture shows.
        class_mean: Whether the rival is measured.
    """

    task_class = ImageClassification

    def __init__(self, num_samples: int = 12, class_mean: bool = True) -> None:
        self.num_samples = check_num_samples(num_samples)
        self.class_mean = class_mean
        self._rivals: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._mistakes: list[tuple[float, AnswerSample]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the rival, which a resumed run cannot measure again."""
        return {"rivals": self._rivals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            UserError: It is something else.
        """
        self._rivals = checked_state(state_dict, RIVAL_STATE, self)["rivals"]

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the rival at step 0."""
        assert isinstance(pl_module, ImageClassification)
        if trainer.global_step == 0:
            self._measure(trainer, pl_module, "val")
        pl_module.rival_figures = dict(self._rivals)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a resumed run log the rival."""
        assert isinstance(pl_module, ImageClassification)
        pl_module.rival_figures = dict(self._rivals)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the rival on the test images, if the weights still hold the base."""
        assert isinstance(pl_module, ImageClassification)
        self._rivals = {}
        if not holds_base(pl_module.network):
            log.info("class_mean: not measured: of these weights the base's features cannot be had")
        else:
            with disable_adapters(pl_module.network):
                self._measure(trainer, pl_module, "test")
        pl_module.rival_figures = dict(self._rivals)

    def _measure(self, trainer: Trainer, task: ImageClassification, split: str) -> None:
        data: object = data_of(trainer)
        if not self.class_mean or task.network.multi_label or is_trial(trainer) or not isinstance(data, LabelData):
            return
        if is_sharded(task):
            log.info("class_mean: not measured: one process alone has no whole weights")
            return
        found = class_mean_figures(task.network, data, split) if trainer.is_global_zero else {}
        # all processes must log the same
        self._rivals = trainer.strategy.broadcast(found)

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""
        self._rows, self._mistakes = [], []

    def take(self, trainer: Trainer, task: ImageClassification, evaluated: EvaluatedBatch) -> None:
        """Keep the answers of `test`, and the gravest mistakes."""
        if evaluated.stage == "predict":
            return
        batch, names, several = evaluated.batch, class_names_of(trainer), task.network.multi_label
        for place in evaluated.real():
            answer = ClassAnswer.of(evaluated.outputs["probabilities"][place], batch["label"][place], names, several)
            if evaluated.stage == "test":
                values = (batch["name"][place], answer.truth, answer.label, answer.confidence, int(answer.is_right))
                self._rows.append(dict(zip(COLUMNS, values, strict=True)))
            if not answer.is_right:
                self._keep(batch["name"][place], shown_channels(batch["image"][place]), answer)

    def end_epoch(self, trainer: Trainer, task: ImageClassification, stage: Stage) -> None:
        """Draw the gravest mistakes."""
        kept = sorted(gather_rows(self._mistakes), key=_rank)[: self.num_samples]
        if kept and trainer.is_global_zero and not is_trial(trainer):
            show_picture(trainer, self.folder, answer_sheet([sample for _, sample in kept]))

    def end(self, trainer: Trainer, task: ImageClassification, stage: Stage) -> None:
        """Write the answers of `test`."""
        if stage != "test":
            return
        rows = sorted(gather_rows(self._rows), key=lambda row: str(row["name"]))
        if trainer.is_global_zero:
            table = file_of_test(trainer, "ClassificationResults", "labels.csv")
            write_table(table, COLUMNS, rows)
            log.info("%d answers, %d of them wrong: %s", len(rows), sum(not row["right"] for row in rows), table)

    def _keep(self, name: str, image: Tensor, answer: ClassAnswer) -> None:
        """Keep a mistake if it is among the gravest so far."""
        is_full = len(self._mistakes) >= self.num_samples
        if is_full and _rank(self._mistakes[-1]) < (-answer.confidence, name):
            return
        said = f"{answer.label}, {answer.confidence:.3f}"
        # a copy, for a view would keep the whole batch in memory
        sample = AnswerSample(name, image.cpu().clone(), name, "", answer.truth, said, 0.0)
        self._mistakes = sorted([*self._mistakes, (answer.confidence, sample)], key=_rank)[: self.num_samples]


def holds_base(network: ImageClassifier) -> bool:
    """Return whether an encoder answers as its base where adapters are switched off."""
    done = adaptation(network)
    if done is None or not done.config.freeze_base_model or done.config.init_lora_weights != "default":
        return False
    return not any(path.startswith("encoder") for path in done.trained_in_full)


@torch.no_grad()
def class_mean_figures(network: ImageClassifier, data: LabelData, split: str) -> dict[str, float]:
    """Return `class_mean_accuracy` and `class_mean_f1` of the images of a split.

    Args:
        network: It answers as its base.
        data: With one class for each image.
        split: "val" or "test".
    """
    sums: Tensor | None = None
    with evaluation_mode(network):
        for features, label in _features(network, data, "train", MOST_OF_CLASS):
            one_hot = F.one_hot(label, network.num_classes).to(features)
            sums = (0 if sums is None else sums) + one_hot.T @ features
        assert sums is not None
        means = F.normalize(sums, dim=1)
        # one process measures for all
        metric = ClassificationMetric(network.num_classes, multi_label=False, is_alone=True).to(means.device)
        for features, label in _features(network, data, split, None):
            # probabilities, which torchmetrics takes as they are
            metric.update((features @ means.T).softmax(1), label)
    figures = metric.compute([str(index) for index in range(network.num_classes)])
    return {f"class_mean_{name}": figures[name] for name in ("accuracy", "f1")}


def _features(
    network: ImageClassifier, data: LabelData, split: str, most: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features of length 1, `(B, F)` in fp32, and labels, `(B,)`."""
    device = next(network.parameters()).device
    for image, label in data.plain_images(split, most):
        yield F.normalize(network.features(image.to(device)).float(), dim=1), label.to(device)


def _rank(kept: tuple[float, AnswerSample]) -> tuple[float, str]:
    return -kept[0], kept[1].name
