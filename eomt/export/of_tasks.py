"""The graphs of a task with its trained network."""

from functools import singledispatch

from torch import nn

from eomt.errors import UserError
from eomt.export.answering import answering_graphs
from eomt.export.classification import classification_graphs
from eomt.export.encoder import encoder_graphs
from eomt.export.exportable import Batch, Exportable
from eomt.export.morph import morph_graphs
from eomt.export.objects import instance_graphs, panoptic_graphs
from eomt.export.prompted import prompted_graphs
from eomt.export.segmentation import segmentation_graphs
from eomt.models.network import Network
from eomt.tasks import (
    ImageClassification,
    InstanceSegmentation,
    MaskedAutoencoding,
    MorphDetection,
    PanopticSegmentation,
    PromptedSegmentation,
    SemanticSegmentation,
    VisualQuestionAnswering,
)


@singledispatch
def exportable_of(task: nn.Module, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graphs of a task's network.

    Args:
        task: The task.
        network: A merged copy of its network, on the CPU, frozen and in evaluation mode; it may be changed.
        batch: A real or synthetic batch of the task with images, on the CPU.
        anomaly: Anomaly scores that the graph computes, too.

    Raises:
        UserError: If the task cannot be exported.
    """
    raise UserError(f"export: {type(task).__name__} has no graph; merge it, and call its network")


exportable_of.register(SemanticSegmentation, segmentation_graphs)
exportable_of.register(ImageClassification, classification_graphs)
exportable_of.register(InstanceSegmentation, instance_graphs)
exportable_of.register(PanopticSegmentation, panoptic_graphs)
exportable_of.register(MorphDetection, morph_graphs)
exportable_of.register(PromptedSegmentation, prompted_graphs)
exportable_of.register(MaskedAutoencoding, encoder_graphs)
exportable_of.register(VisualQuestionAnswering, answering_graphs)
