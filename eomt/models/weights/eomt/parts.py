"""What of an EoMT is read where its weights are loaded and written."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from eomt.models.weights.backbone.names import Backbone
from eomt.models.weights.colors import Colors


class EncoderParts(Protocol):
    """What is read of a ViT.

    Attributes:
        backbone: timm's model.
        backbone_name: Its name there.
        img_size: Height and width in pixels that its position grid is made for.
        patch_size: In pixels.
        in_chans: Number of channels of its images.
        pretrained: Where its weights come from; false if they are random.
    """

    backbone: Backbone
    backbone_name: str
    img_size: tuple[int, int]
    patch_size: int
    in_chans: int
    pretrained: bool | str

    @property
    def colors(self) -> tuple[Colors, Colors]:
        """Mean and deviation that images are normalized with."""


class EoMTParts(Protocol):
    """What is read of an EoMT; its attributes are those of `eomt.models.EoMT`."""

    num_classes: int
    num_blocks: int
    masked_attn_enabled: bool
    img_size: tuple[int, int]
    class_names: list[str] | None
    pads_images: bool
    q: nn.Embedding
    upscale: nn.Sequential
    attn_mask_probs: Tensor

    @property
    def encoder(self) -> EncoderParts:
        """The ViT."""

    def state_dict(self) -> dict[str, Any]:
        """Return its tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = ...) -> Any:
        """Fill its tensors."""
