"""The graph of the detection of morphs."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import MorphSettings
from eomt.export.runtime import GraphMorphScorer
from eomt.metrics.morph import MorphMetric
from eomt.models.morph_detector import MORPH, MorphDetector
from eomt.models.network import Network
from eomt.tasks import MorphDetection


class MorphGraph(nn.Module):
    """From images to logits and scores.

    Args:
        network: A merged MorphDetector.
    """

    def __init__(self, network: MorphDetector) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, `(B, 2)`, and the probability of a morph, `(B,)`, of images, uint8 `(B, 3, H, W)`."""
        logits = self.network(image).logits.float()
        return logits, logits.softmax(1)[:, MORPH]


def morph_graphs(task: MorphDetection, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of a detector of morphs; see `eomt.export.of_tasks.exportable_of`."""
    assert isinstance(network, MorphDetector)
    images = batch["image"] if len(batch["image"]) > 1 else batch["image"].repeat(2, 1, 1, 1)
    graph = Graph("model", MorphGraph(network), {"image": images}, {"image": {0: "batch"}}, ("logits", "scores"))
    threshold = None if math.isnan(task.threshold) else task.threshold
    return Exportable(
        [graph],
        MorphSettings(threshold=threshold),
        network,
        partial(GraphMorphScorer, img_size=network.img_size),
        _measure,
    )


def _measure(model: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Return `eer` and `auroc`, as validation does."""
    metric = MorphMetric()
    for batch in batches:
        scores = model.scores(batch["image"])
        metric.update(scores, batch["label"], batch["attack"], batch["dataset"], batch["name"])
    figures: dict[str, float] = metric.compute()
    return {f"val_{name}": figures[name] for name in ("eer", "auroc")}
