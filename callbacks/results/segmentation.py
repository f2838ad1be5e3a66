"""What is beside the figures of semantic segmentation: what a color or a place alone tells of the class."""

import logging
from collections.abc import Callable, Iterator

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage
from eomt.errors import UserError
from eomt.metrics import SegmentationMetric
from eomt.metrics.commonest_class import CommonestClass
from eomt.tasks import SemanticSegmentation
from eomt.tasks.data import MaskData, data_of

log = logging.getLogger("eomt")

# training images that tell the most frequent classes
MOST_IMAGES = 100


class SegmentationResults(EvaluationCallback[SemanticSegmentation]):
    """Logs the cheapest rivals of a network; for SemanticSegmentation.

    `val_color_iou` and `test_color_iou`: of the class that each pixel's color has most often in up to 100 training
    images; `val_place_iou` and `test_place_iou`: of the class that is most frequent at its place. They train nothing
    and look at no neighbor, and stand beside every validation and test. See `eomt.metrics.commonest_class`.

    Without training images, such as in a `test` on other data, they are not measured, which the log says.
    """

    task_class = SemanticSegmentation

    def __init__(self) -> None:
        # None before a look at the training images; empty where there are none
        self._rivals: dict[str, Callable[[Tensor], Tensor]] | None = None
        self._metrics: dict[str, SegmentationMetric] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at training images."""
        self._learn(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at training images."""
        self._learn(trainer, pl_module)

    def _learn(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SemanticSegmentation)
        if self._rivals is None:
            self._rivals = {}
            data: object = data_of(trainer)
            try:
                samples = plain_samples(data) if isinstance(data, MaskData) else ()
                found = CommonestClass.of(samples, pl_module.network.num_classes)
                self._rivals = {"color": found.by_color, "place": found.by_place} if found is not None else {}
            except UserError as error:
                log.info("color_iou and place_iou: not measured, without training images (%s)", error)
        self._metrics = {
            name: SegmentationMetric(pl_module.network.num_classes).to(pl_module.device) for name in self._rivals
        }

    def take(self, trainer: Trainer, task: SemanticSegmentation, evaluated: EvaluatedBatch) -> None:
        """Measure the rivals on a batch with masks."""
        batch = evaluated.batch
        if evaluated.stage == "predict" or "mask" not in batch:
            return
        for name, rival in (self._rivals or {}).items():
            for place in evaluated.real():
                self._metrics[name].update(rival(batch["image"][place])[None], batch["mask"][place][None])

    def end_epoch(self, trainer: Trainer, task: SemanticSegmentation, stage: Stage) -> None:
        """Log the rivals."""
        for name, metric in self._metrics.items():
            iou = metric.compute()["iou"]
            # anomaly sets without masks have no IoU
            if not iou.isnan():
                # the metric has gathered from all ranks already; sync_dist only tells Lightning so
                task.log(f"{stage}_{name}_iou", iou, sync_dist=True)
        self._metrics = {}


def plain_samples(data: MaskData) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training images with their maps, as they are, evenly spread over them."""
    dataset = data.masked_dataset("train")
    for number in range(0, len(dataset), max(1, -(-len(dataset) // MOST_IMAGES))):
        sample = dataset[number]
        yield sample["image"], sample["mask"]
