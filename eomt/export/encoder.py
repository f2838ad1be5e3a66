"""The graph of the encoder that a masked autoencoder has trained, which sees every patch."""

import torch
from torch import Tensor, nn

from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import Graph
from eomt.export.record import EncoderSettings
from eomt.models.mae import MaskedAutoencoder
from eomt.models.network import Network
from eomt.tasks import MaskedAutoencoding


class EncoderGraph(nn.Module):
    """From images to the tokens of all patches.

    Args:
        network: A merged MaskedAutoencoder, which is set to mask nothing.
    """

    def __init__(self, network: MaskedAutoencoder) -> None:
        super().__init__()
        self.normalize, self.vit, self.num_patches = network.normalize, network.model.vit, network.num_patches
        # transformers reads it in every forward
        self.vit.config.mask_ratio = 0.0

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return normalized tokens, `(B, 1 + N, D)`, the class token first, of images, uint8 `(B, 3, H, W)`."""
        pixels = self.normalize(image).to(self.vit.embeddings.patch_embeddings.projection.weight.dtype)
        # increasing noise: the model sorts patches by it
        in_order = torch.arange(self.num_patches).expand(image.shape[0], -1)
        return (self.vit(pixels, noise=in_order).last_hidden_state.float(),)


def encoder_graphs(task: MaskedAutoencoding, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graph of an encoder; see `eomt.export.of_tasks.exportable_of`."""
    assert isinstance(network, MaskedAutoencoder)
    images = batch["image"] if len(batch["image"]) > 1 else batch["image"].repeat(2, 1, 1, 1)
    graph = Graph("encoder", EncoderGraph(network), {"image": images}, {"image": {0: "batch"}}, ("last_hidden_state",))
    # an encoder alone has no figure
    return Exportable([graph], EncoderSettings(), network, lambda sessions: None, lambda model, batches: {})
