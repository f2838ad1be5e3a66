"""Graphs of instance and panoptic segmentation: what queries say, of which Python makes objects and segments."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import InstanceSettings, PanopticSettings, Settings
from eomt.export.runtime import GraphQueries
from eomt.export.segmentation import fix_masking
from eomt.models.eomt import EoMT, Prediction
from eomt.models.network import Network
from eomt.predictors.of_tasks import EoMTQueries
from eomt.tasks import InstanceSegmentation, PanopticSegmentation
from eomt.tasks.object_segmentation import ObjectSegmentation, true_objects
from eomt.utils.windows import fit_image


class QueryGraph(nn.Module):
    """From images to the masks and classes of queries.

    Args:
        network: A merged EoMT; masked attention is kept as it is now.
    """

    def __init__(self, network: EoMT) -> None:
        super().__init__()
        self.network = network
        fix_masking(network)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits `(B, Q, h, w)` and class logits `(B, Q, C + 1)` of images of `img_size`.

        Args:
            image: uint8 RGB `(B, 3, H, W)`.
        """
        mask_logits, class_logits = self.network(image)[-1]
        return mask_logits.float(), class_logits.float()


def instance_graphs(task: InstanceSegmentation, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of instance segmentation; see `eomt.export.of_tasks.exportable_of`."""
    graph, shared = _graph(task, network, batch)
    settings = InstanceSettings(**shared, max_detections=task.max_detections)
    return _exportable(task, graph, settings)


def panoptic_graphs(task: PanopticSegmentation, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of panoptic segmentation; see `eomt.export.of_tasks.exportable_of`."""
    graph, shared = _graph(task, network, batch)
    settings = PanopticSettings(**shared, stuff_classes=task.stuff_classes, overlap_threshold=task.overlap_threshold)
    return _exportable(task, graph, settings)


def _graph(task: ObjectSegmentation[Any], network: Network, batch: Batch) -> tuple[Graph, dict[str, Any]]:
    """Return the graph, and the settings that both tasks have."""
    assert isinstance(network, EoMT)
    windows = task.windows(batch["image"])
    windows = windows if len(windows) > 1 else windows.repeat(2, 1, 1, 1)
    graph = Graph(
        "model", QueryGraph(network), {"image": windows}, {"image": {0: "batch"}}, ("mask_logits", "class_logits")
    )
    masks, _ = graph.answers({"image": windows[:1]})
    return graph, {
        "class_names": network.class_names or [f"class {index}" for index in range(network.num_classes)],
        "num_queries": masks.shape[1],
        "mask_size": (masks.shape[2], masks.shape[3]),
        "score_threshold": task.score_threshold,
    }


def _exportable(task: ObjectSegmentation[Any], graph: Graph, settings: Settings) -> Exportable:
    network = graph.module.network
    assert isinstance(network, EoMT)
    runtime = partial(GraphQueries, img_size=network.img_size)
    return Exportable([graph], settings, EoMTQueries(network), runtime, partial(_measure, task))


def _measure(task: ObjectSegmentation[Any], model: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the figures in the names of checkpoints, as validation does; none where no batch has objects."""
    # a copy, for that of the task may be in the middle of a validation
    metric: Any = copy.deepcopy(task.val_metric)
    metric.reset()
    is_empty = True
    for batch in batches:
        truths = true_objects(batch) if "masks" in batch else ()
        for image, truth in zip(batch["image"], truths, strict=False):
            answer = Prediction(*(part[0] for part in model.queries(fit_image(image, model.img_size)[None])))
            found = task.found(answer, (image.shape[-2], image.shape[-1]), task.least_measured)
            task.measure(metric, found, truth)
            is_empty = False
    figures = {} if is_empty else metric.compute()
    return {f"val_{name}": float(figures[name]) for name in task.file_metrics if figures}
