"""Panoptic segmentation with EoMT."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.errors import UserError, listed
from eomt.lora.config import LoRAConfig
from eomt.metrics import PanopticQuality
from eomt.models.eomt import EoMT, Prediction
from eomt.models.post_processing import Segments, find_segments
from eomt.tasks.configuration import Configuration
from eomt.tasks.object_segmentation import ObjectSegmentation, TrueObjects


class PanopticSegmentation(ObjectSegmentation[Segments]):
    """Training of an EoMT on things and stuff, and its evaluation by the panoptic quality.

    Batches are those of ObjectSegmentation; segments do not overlap, and each kind of stuff is one of them. Answers are
    those of EoMT's authors; see `eomt.models.post_processing.find_segments`.

    Args:
        network: An EoMT; the authors take 200 queries.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        stuff_classes: Ids of the classes that are stuff, of which an image has one segment each; the command line fills
            in those of the data.
        score_threshold: The class probability that a query must exceed (`mask_thresh` of the authors).
        overlap_threshold: The least area that a query gets, as a share of its own mask (`overlap_thresh` there).
        **training: Further arguments of MaskClassification, such as num_points and class_weights, and of
            AdaptationTask, such as lr and memory.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_pq"
    file_metrics = ("pq", "sq", "rq")
    data_target = "panoptic"
    figures = ("pq", "sq", "rq", "pq_things", "pq_stuff")
    class_figure = "pq"

    def __init__(
        self,
        network: EoMT,
        lora_config: LoRAConfig | None = None,
        stuff_classes: list[int] | None = None,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        **training: Any,
    ) -> None:
        super().__init__(network, lora_config, **training)
        for name, value in (("score_threshold", score_threshold), ("overlap_threshold", overlap_threshold)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}: {value}; must be 0 to 1")
        self.stuff_classes = sorted(set(stuff_classes or ()))
        if self.stuff_classes and not 0 <= self.stuff_classes[0] <= self.stuff_classes[-1] < network.num_classes:
            raise UserError(
                f"stuff_classes: [{listed(self.stuff_classes)}]; must be class ids, 0 to {network.num_classes - 1}"
            )
        self.score_threshold, self.overlap_threshold = score_threshold, overlap_threshold
        self.val_metric = PanopticQuality(network.num_classes, self.stuff_classes)
        self.test_metric = PanopticQuality(network.num_classes, self.stuff_classes)

    @classmethod
    def configure(cls, configuration: Configuration) -> None:
        """Fill in the classes that are stuff, too, if the data says it.

        Raises:
            UserError: For a value in the configuration that contradicts the data.
        """
        super().configure(configuration)
        found = getattr(configuration.datamodule(), "stuff_classes", None) if configuration.data is not None else None
        if found is None:
            return
        given = configuration.task.get("stuff_classes")
        if given is not None and sorted(set(given)) != sorted(found):
            raise UserError(
                f"model.stuff_classes: [{listed(given)}], but those of the data are [{listed(found)}]; leave it out: "
                "it is filled in"
            )
        configuration.task["stuff_classes"] = list(found)

    def found(self, prediction: Prediction, size: tuple[int, int], threshold: float) -> Segments:
        """Return the segments that queries found in one image."""
        window = self.network.img_size
        return find_segments(*prediction, window, size, self.stuff_classes, threshold, self.overlap_threshold)

    def class_map(self, found: Segments) -> Tensor:
        """Return the classes of the segments."""
        return torch.cat([found.labels.new_zeros(1), found.labels + 1])[found.segment_map.long()]

    def measure(self, metric: Metric, found: Segments, truth: TrueObjects) -> None:
        """Add an image to a metric."""
        metric.update(found.segment_map, found.labels, truth.masks, truth.labels, truth.is_crowd)
