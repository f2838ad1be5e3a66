"""Classification of whole images."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses.classification import ClassificationLoss, balanced_weights
from eomt.metrics.classification import ClassificationMetric
from eomt.models.image_classifier import ImageClassifier
from eomt.tasks.base import AdaptationTask
from eomt.tasks.configuration import Configuration
from eomt.tasks.data import LabelData, class_names_of, data_of
from eomt.utils.rank import rank

log = logging.getLogger("eomt")

Watched = Literal["f1", "accuracy", "auroc", "map"]
# with more classes, validation logs no figures of single ones; the results of `test` have all
MOST_LOGGED = 100
# streams of random numbers, apart from those of data modules
MIXING = 7


class ImageClassification(AdaptationTask):
    """Training and evaluation of an ImageClassifier.

    Batches: `image`, uint8 `(B, 3, H, W)`; `label`, int64 `(B,)`, or 0 and 1 as float `(B, C)` where images have
    several labels; `name`, a list of B strings.

    The best step is that of the highest `val_f1`, the mean over classes: on classes of one size it agrees with
    accuracy, and where sizes differ it cannot be had by answering the largest class. With several labels it is
    `val_map`, which needs no threshold. Beside them stand `val_majority_accuracy` and `val_majority_f1` of the most
    frequent training class (`val_constant_map`), and what `ClassificationResults` measured.

    Args:
        network: An ImageClassifier.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        lr: See AdaptationTask.
        class_weights: Weights of the classes in the training loss, one for each, or balanced, by their frequency in
            the training images; None for 1. With several labels they multiply the loss of images that show a label.
        label_smoothing: Share of the target that is spread over all classes.
        mixup: Parameter of the distribution of shares with which two training images are mixed (mixup, Zhang et al.,
            ICLR 2018, arXiv:1710.09412), such as 0.2; 0 for none.
        cutmix: The same of rectangles of one image put into another (CutMix, Yun et al., ICCV 2019,
            arXiv:1905.04899), such as 1; 0 for none. With both, each batch has one of them.
        watch: Figure that selects the best step: f1, accuracy or auroc; with several labels map, f1 or auroc; None
            for the first of them.
        **training: Further arguments of AdaptationTask: head_lr, weight_decay, schedule, warmup, compile, memory,
            feature_cache, feature_folder.

    Raises:
        UserError: For a value that is not allowed.
    """

    network_class = ImageClassifier
    network: ImageClassifier
    # where an instance has no other
    monitor = "val_f1"
    file_metrics: tuple[str, ...] = ("f1", "accuracy")

    def __init__(
        self,
        network: ImageClassifier,
        lora_config: LoRAConfig | None = None,
        lr: float = 1e-3,
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        watch: Watched | None = None,
        **training: Any,
    ) -> None:
        self.check_network(network)
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= value < float("inf"):
                raise UserError(f"{name}: {value}; must be at least 0")
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise UserError(f"class_weights: {class_weights!r}; must be balanced, or a number for each class")
        super().__init__(network, lora_config, lr=lr, **training)
        classes, several = network.num_classes, network.multi_label
        measured = ("map", "f1", "auroc") if several else ("f1", "accuracy", "auroc")
        watched = watch or measured[0]
        if watched not in measured:
            raise UserError(f"watch: {watch}; must be {', '.join(measured)} where images have "
                            f"{'several labels' if several else 'one class each'}")  # fmt: skip
        self.monitor = f"val_{watched}"
        self.file_metrics = tuple(dict.fromkeys((watched, *measured)))[:2]
        self.class_weights = class_weights
        weights = class_weights if isinstance(class_weights, list) else None
        self.criterion = ClassificationLoss(classes, several, label_smoothing, weights)
        # without weights and smoothing, which would let the mean depend on how images are grouped into batches
        self.evaluation_criterion = ClassificationLoss(classes, several)
        mixers = [kind(alpha=alpha, num_classes=classes) for kind, alpha in ((MixUp, mixup), (CutMix, cutmix)) if alpha]
        self.mixer = RandomChoice(mixers) if mixers else None
        self.train_accuracy, self.evaluation_loss = MeanMetric(), MeanMetric()
        self.val_metric, self.test_metric = (ClassificationMetric(classes, several) for _ in range(2))
        # what a callback measured of rivals on the images of validation or test, by figure
        self.rival_figures: dict[str, float] = {}

    @classmethod
    def configure(cls, configuration: Configuration) -> None:
        """Fill in sizes, the number of classes, and whether images have several.

        Raises:
            UserError: If the configuration contradicts the data.
        """
        super().configure(configuration)
        given = configuration.network.get("multi_label")
        if configuration.data is None or not (configuration.trains or given is None):
            return
        data: object = configuration.datamodule()
        if not isinstance(data, LabelData):
            return
        if given is not None and given != data.is_multi_label():
            raise UserError(
                f"model.network.multi_label: {given}, but the data has "
                f"{'several labels' if data.is_multi_label() else 'one class'} for each image; leave it out"
            )
        configuration.network["multi_label"] = data.is_multi_label()

    def setup(self, stage: str) -> None:
        """Weight the classes by their frequency, if that is wanted.

        Raises:
            UserError: The data do not tell how frequent they are.
        """
        super().setup(stage)
        data = data_of(self.trainer)
        if stage != "fit" or self.class_weights is None:
            return
        if data is not None and data.balanced:
            log.warning("class_weights: given with balanced: true, which corrects for rare classes a second time; "
                        "leave one of the two out")  # fmt: skip
        if self.class_weights == "balanced":
            counts: object = data
            if not isinstance(counts, LabelData):
                raise UserError("class_weights: balanced, but the data do not count their labels; give numbers")
            number = data.counts["train"]["images"] if data is not None else 0
            weights = balanced_weights(counts.label_counts(), number, self.network.multi_label)
            self.criterion.set_weights(weights)

    # -- training ----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the weighted loss of a batch, mixed if that is wanted, and the logits."""
        return self._loss(self._mixed(batch) if self.mixer is not None and self.training else batch)

    def audit_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the loss of a batch as it is: of mixed images it would be another one each time."""
        return self._loss(batch)[0]

    def audit_answers(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the logits, in which classes and images should differ."""
        return {"classes": network(batch["image"])}

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size, the classes in turn."""
        generator = torch.Generator().manual_seed(0)
        size = (batch_size, self.network.in_chans, *self.network.img_size)
        label = torch.arange(batch_size) % self.network.num_classes
        if self.network.multi_label:
            label = nn.functional.one_hot(label, self.network.num_classes).float()
        return {
            "image": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
            "label": label,
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the logits, `(B, C)`."""
        return network(batch["image"])

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: Tensor) -> None:
        """Log `train_accuracy`, of all labels where images have several; not of mixed images, which have no truth."""
        if self.mixer is not None:
            return
        if self.network.multi_label:
            right = (output > 0) == (batch["label"] > 0.5)
        else:
            right = output.argmax(1) == batch["label"]
        self.train_accuracy.update(right.float())
        if self.ends_logged_step():
            self.log("train_accuracy", self.train_accuracy.compute(), prog_bar=True)
            self.train_accuracy.reset()

    def _loss(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        logits = self.network(batch["image"])
        return {"loss": self.criterion(logits, batch["label"])}, logits

    def _mixed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch of images mixed in pairs, by numbers that follow from seed, step and process alone."""
        assert self.mixer is not None
        random = np.random.default_rng([torch.initial_seed() % 2**63, self.global_step, rank(), MIXING])
        image = batch["image"].float() / 255 if batch["image"].dtype == torch.uint8 else batch["image"]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPU's generator too, which belongs to the network
            torch.default_generator.manual_seed(int(random.integers(2**62)))
            image, label = self.mixer(image, batch["label"])
        return batch | {"image": image, "label": label}

    # -- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the metrics, and return what `predict_step` does."""
        return self._evaluate(batch, self.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of validation."""
        self._log_metric(self.val_metric, "val", self.rival_figures)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the metrics, and return what `predict_step` does."""
        return self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log the figures of test, and keep those of all classes for the results file."""
        figures = self._log_metric(self.test_metric, "test", self.rival_figures)
        self.all_figures = {f"test_{name}": value for name, value in figures.items()}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return `probabilities` of the classes, fp32 `(B, C)`."""
        return {"probabilities": self.network.scores(batch["image"])}

    def _evaluate(self, batch: dict[str, Any], metric: ClassificationMetric) -> dict[str, Tensor]:
        logits = self.network(batch["image"])
        probabilities = self.network.probabilities(logits)
        # samples without a name only complete the last step of a rank, and do not count
        real = [index for index, name in enumerate(batch["name"]) if name]
        metric.update(probabilities[real], batch["label"][real])
        if real:
            self.evaluation_loss.update(self.evaluation_criterion(logits[real], batch["label"][real]), len(real))
        return {"probabilities": probabilities}

    def _log_metric(self, metric: ClassificationMetric, stage: str, rivals: Mapping[str, float]) -> dict[str, float]:
        """Log the figures, and return them with those of all classes."""
        figures = metric.compute(class_names_of(self.trainer))
        data: object = data_of(self.trainer)
        constant = metric.constant_figures(data.label_counts()) if isinstance(data, LabelData) else {}
        figures |= constant | dict(rivals)
        # the metrics have gathered from all ranks already; sync_dist only tells Lightning so
        self.log(f"{stage}_loss", self.evaluation_loss.compute(), sync_dist=True)
        for name, value in figures.items():
            if "/" not in name or self.network.num_classes <= MOST_LOGGED:
                self.log(f"{stage}_{name}", value, prog_bar=f"val_{name}" == self.monitor, sync_dist=True)
        metric.reset()
        self.evaluation_loss.reset()
        return figures
