"""Instance segmentation with EoMT."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.metrics import MaskAveragePrecision
from eomt.metrics.threshold_objects import threshold_objects
from eomt.models.eomt import EoMT, Prediction
from eomt.models.post_processing import Instances, find_instances
from eomt.tasks.index_maps import index_map
from eomt.tasks.object_segmentation import ObjectSegmentation, TrueObjects, true_objects


class InstanceSegmentation(ObjectSegmentation[Instances]):
    """Training of an EoMT on objects, and its evaluation by COCO's average precision of masks.

    Batches are those of ObjectSegmentation. What is measured are the `max_detections` likeliest pairs of query and
    class, as in the code of EoMT's authors; see `eomt.models.post_processing.find_instances`. Beside it `test` measures
    `test_map_threshold`, AP of what a brightness threshold finds, which is not asked for classes.

    Args:
        network: An EoMT; the authors take 200 queries.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        max_detections: The most objects of an image.
        score_threshold: The least score of the objects that `predict` writes; measured are all.
        **training: Further arguments of MaskClassification, such as num_points and class_weights, and of
            AdaptationTask, such as lr and memory.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_map"
    file_metrics = ("map", "ap50")
    data_target = "instance"
    figures = ("map", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    class_figure = "ap"
    # of what is measured
    least_measured = 0.0

    def __init__(
        self,
        network: EoMT,
        lora_config: LoRAConfig | None = None,
        max_detections: int = 100,
        score_threshold: float = 0.5,
        **training: Any,
    ) -> None:
        super().__init__(network, lora_config, **training)
        if max_detections < 1:
            raise UserError(f"max_detections: {max_detections}; must be at least 1")
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold: {score_threshold}; must be 0 to 1")
        self.max_detections, self.score_threshold = max_detections, score_threshold
        self.val_metric = MaskAveragePrecision(network.num_classes, max_detections)
        self.test_metric = MaskAveragePrecision(network.num_classes, max_detections)
        # of a single class: what is no more than a rival need not know them
        self.rival_metric = MaskAveragePrecision(1, max_detections)

    def found(self, prediction: Prediction, size: tuple[int, int], threshold: float) -> Instances:
        """Return the objects that queries found in one image."""
        return find_instances(*prediction, self.network.img_size, size, self.max_detections, threshold)

    def class_map(self, found: Instances) -> Tensor:
        """Return the classes of the objects above `score_threshold`; smaller objects lie on top."""
        sure = found.above(self.score_threshold)
        return index_map(sure.masks, sure.labels)

    def measure(self, metric: Metric, found: Instances, truth: TrueObjects) -> None:
        """Add an image to a metric."""
        metric.update(found.masks, found.scores, found.labels, *truth)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metrics; see `validation_step`."""
        for image, truth, name in zip(batch["image"], true_objects(batch), batch["name"], strict=True):
            if name:
                masks = threshold_objects(image, self.max_detections)
                labels = torch.zeros(len(masks), dtype=torch.int64)
                found = Instances(masks, labels, masks.areas.double())
                self.measure(self.rival_metric, found, truth._replace(labels=torch.zeros_like(truth.labels)))
        return super().test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the figures of test."""
        super().on_test_epoch_end()
        self.log("test_map_threshold", self.rival_metric.compute()["map"], sync_dist=True)
        self.rival_metric.reset()
