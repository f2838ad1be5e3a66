"""Graphs of semantic segmentation."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError, listed
from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import SegmentationSettings, ViewRecord
from eomt.export.runtime import GraphScorer
from eomt.metrics.anomaly_scores import SCORES, anomaly_maps
from eomt.metrics.segmentation import SegmentationMetric
from eomt.models.eomt import EoMT
from eomt.models.network import Network
from eomt.predictors.of_tasks import EoMTScorer
from eomt.tasks import SemanticSegmentation
from eomt.utils.labels import most_likely_classes
from eomt.utils.windows import View, WindowResult, covering_size, over_windows, resize_image


class SegmentationGraph(nn.Module):
    """From images to the scores of classes and, if wanted, to anomaly scores.

    Args:
        network: A merged EoMT; masked attention is kept as it is now.
        anomaly: Names of anomaly scores.
        temperature: See `eomt.metrics.anomaly_scores.msp`.
        normalize: Likewise.
    """

    def __init__(self, network: EoMT, anomaly: list[str], temperature: float, normalize: bool) -> None:
        super().__init__()
        self.network, self.anomaly = network, anomaly
        self.temperature, self.normalize = temperature, normalize
        fix_masking(network)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scores, `(B, C + 1, H, W)`, and a map `(B, H, W)` for each anomaly score, of images of `img_size`.

        Args:
            image: uint8 RGB `(B, 3, H, W)`.
        """
        mask_logits, class_logits = self.network(image)[-1]
        masks = F.interpolate(mask_logits.float(), self.network.img_size, mode="bilinear").sigmoid()
        classes = class_logits.float().softmax(-1).transpose(1, 2)  # (B, C + 1, Q)
        scores = (classes @ masks.flatten(2)).unflatten(2, self.network.img_size)
        if not self.anomaly:
            return (scores,)
        # classes first, as of one image, whose rows are cut into strips
        maps = anomaly_maps(self.anomaly, scores.permute(1, 2, 0, 3), self.temperature, self.normalize)
        return (scores, *maps.transpose(1, 2).unbind(0))


def fix_masking(network: EoMT) -> None:
    """Keep the probabilities of masked attention as plain numbers: a buffer's are not known where a graph is traced."""
    fixed = network.mask_probabilities()
    vars(network)["mask_probabilities"] = lambda: fixed


def segmentation_graphs(task: SemanticSegmentation, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of semantic segmentation; see `eomt.export.of_tasks.exportable_of`.

    Raises:
        UserError: For an unknown anomaly score.
    """
    assert isinstance(network, EoMT)
    if unknown := set(anomaly) - set(SCORES):
        raise UserError(f"anomaly: {listed(map(repr, sorted(unknown)))}; must be some of {', '.join(SCORES)}")
    kept = task.anomalies
    graph = Graph(
        "model",
        SegmentationGraph(network, anomaly, kept.temperature, kept.normalize),
        {"image": first_windows(batch["image"], network.img_size)},
        {"image": {0: "batch"}},
        ("scores", *anomaly),
    )
    names = network.class_names or [f"class {index}" for index in range(network.num_classes)]
    settings = SegmentationSettings(
        class_names=names,
        views=[ViewRecord(**view._asdict()) for view in task.test_views],
        window_batch_size=task.window_batch_size,
        temperature=kept.temperature,
        normalize=kept.normalize,
        anomaly=anomaly,
    )
    return Exportable(
        [graph],
        settings,
        EoMTScorer(network),
        partial(GraphScorer, img_size=network.img_size),
        partial(_measure, num_classes=network.num_classes, window_batch_size=task.window_batch_size),
    )


def first_windows(images: Any, size: tuple[int, int]) -> Tensor:
    """Return two or more windows of images of any size, uint8 `(B, 3, *size)`: the first of each."""
    resized = [resize_image(image[None], covering_size(tuple(image.shape[-2:]), size)) for image in images]
    windows = torch.cat([image[..., : size[0], : size[1]] for image in resized])
    return windows if len(windows) > 1 else windows.repeat(2, 1, 1, 1)


def _measure(model: Any, batches: Iterable[Batch], num_classes: int, window_batch_size: int) -> dict[str, float]:
    """Return `iou` and `accuracy`, as validation does; none where no batch has masks."""
    metric = SegmentationMetric(num_classes)

    def evaluate(windows: Tensor, masks: Tensor | None) -> WindowResult:
        return WindowResult(model.window_scores(windows), None)

    for batch in batches:
        if batch.get("mask") is None:
            continue
        results = over_windows(evaluate, batch["image"], None, model.img_size, window_batch_size, View())
        for result, mask in zip(results, batch["mask"], strict=True):
            metric.update(most_likely_classes(result.maps[:-1])[None], mask[None])
    if not metric.update_called:
        return {}
    figures = metric.compute()
    return {f"val_{name}": float(figures[name]) for name in ("iou", "accuracy")}
