"""The graph of image classification."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import ClassificationSettings
from eomt.export.runtime import GraphClassifier
from eomt.metrics.classification import ClassificationMetric
from eomt.models.image_classifier import ImageClassifier
from eomt.models.network import Network
from eomt.tasks import ImageClassification


class ClassificationGraph(nn.Module):
    """From images to logits and probabilities.

    Args:
        network: A merged ImageClassifier.
    """

    def __init__(self, network: ImageClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the probability of each class, `(B, C)` both, of images, uint8 `(B, 3, H, W)`."""
        logits = self.network(image).float()
        return logits, self.network.probabilities(logits)


def classification_graphs(task: ImageClassification, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of a classifier of images; see `eomt.export.of_tasks.exportable_of`."""
    assert isinstance(network, ImageClassifier)
    images = batch["image"] if len(batch["image"]) > 1 else batch["image"].repeat(2, 1, 1, 1)
    graph = Graph(
        "model", ClassificationGraph(network), {"image": images}, {"image": {0: "batch"}}, ("logits", "probabilities")
    )
    names = task.network.class_names or [f"class {index}" for index in range(network.num_classes)]
    return Exportable(
        [graph],
        ClassificationSettings(class_names=names, multi_label=network.multi_label),
        network,
        partial(GraphClassifier, img_size=network.img_size, multi_label=network.multi_label),
        partial(_measure, names=names, multi_label=network.multi_label),
    )


def _measure(model: Any, batches: Iterable[Batch], names: list[str], multi_label: bool) -> dict[str, float]:
    """Return what validation returns for all images."""
    metric = ClassificationMetric(len(names), multi_label)
    for batch in batches:
        real = [index for index, name in enumerate(batch["name"]) if name]
        metric.update(model.scores(batch["image"])[real], batch["label"][real])
    figures = metric.compute(names)
    return {f"val_{name}": figures[name] for name in metric.headline}
