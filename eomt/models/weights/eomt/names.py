"""Names of EoMT's tensors: this package's, those of the official code, and transformers'.

The official ones are this package's after `network.`, but for the transposed convolutions, and for a backbone of
DINOv3, which is transformers' there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from eomt.models.weights.backbone.names import (
    backbone_from_hugging_face,
    backbone_to_hugging_face,
    is_hugging_face,
)
from eomt.models.weights.renaming import RenamingTable

BACKBONE = "encoder.backbone."
# On the left this package's names. On the right transformers', which are written, and the official ones.
HEADS = RenamingTable("""
q                       (query|q)
class_head              (class_predictor|class_head)
mask_head.0             mask_head.(fc1|0)
mask_head.2             mask_head.(fc2|2)
mask_head.4             mask_head.(fc3|4)
upscale.#.bias          (upscale_block.block|upscale).#.conv1.bias
upscale.#.conv1.weight  (upscale_block.block|upscale).#.conv1.weight
upscale.#.conv2         (upscale_block.block|upscale).#.conv2
upscale.#.norm          (upscale_block.block|upscale).#.(layernorm2d|norm)
""")
# of the loss, which is no part of the network here
LOSS = "criterion."
COLORS = ("encoder.pixel_mean", "encoder.pixel_std")
HUGGING_FACE_BACKBONE = ("embeddings.", "layers.", "layernorm.")


@dataclass
class EoMTWeights:
    """Tensors of a file in this package's names.

    Attributes:
        heads: All but the backbone.
        backbone: In timm's names.
        hugging_face: Whether the backbone had transformers' names, whose tensors are not quite timm's.
        foreign: Whether the file is official or transformers', so that its images are most likely square.
        transformers: Whether the heads have transformers' names, so that a config.json beside is of this file.
        deltas: Whether the backbone's values are to be added to those it was trained from; None if it cannot be told.
        colors: Mean and deviation that the official code normalizes images with.
    """

    heads: dict[str, Tensor]
    backbone: dict[str, Tensor]
    hugging_face: bool
    foreign: bool
    transformers: bool
    deltas: bool | None
    colors: tuple[Tensor, Tensor] | None


def sort_names(state: Mapping[str, Tensor]) -> EoMTWeights:
    """Take the tensors of a file in any layout apart and rename them; names that are in none stay.

    A file of the official code holds deltas if its `encoder.pixel_mean` and `pixel_std`, buffers that no training
    changes, are 0. That is so in the released ones of DINOv3, which the code adds to a network tensor by tensor; one
    with names of DINOv3 and without these buffers may be either.
    """
    heads: dict[str, Tensor] = {}
    backbone: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = full_name.removeprefix("network.")
        if name in COLORS:
            buffers[name] = value.float().flatten()
        elif name.startswith((BACKBONE, *HUGGING_FACE_BACKBONE)):
            backbone[name.removeprefix(BACKBONE)] = value
        elif not name.startswith(LOSS):
            heads[name] = value
    foreign, transformers = any(name.endswith(".conv1.bias") for name in heads), "query.weight" in heads
    mean, std = (buffers.get(name) for name in COLORS)
    deltas: bool | None = mean is not None and not mean.any() and (std is None or not std.any())
    official_dinov3 = "patch_embed.cls_token" in backbone
    if official_dinov3:
        deltas = None if mean is None else deltas
    hugging_face = official_dinov3 or is_hugging_face(backbone)
    backbone = backbone_from_hugging_face(backbone) if hugging_face else backbone
    colors = None
    if mean is not None and std is not None and len(mean) == len(std) == 3 and std.all():
        colors = (mean, std)
    return EoMTWeights(_own_heads(heads), backbone, hugging_face, foreign, transformers, deltas, colors)


def eomt_to_hugging_face(
    heads: Mapping[str, Tensor], backbone: Mapping[str, Tensor], rotary: bool
) -> dict[str, Tensor]:
    """Return what `sort_names` gives in the names of transformers' classes: of DINOv3 if `rotary`, else of DINOv2."""
    transposed = {name: to_transposed(value) if _is_upscaling(name) else value for name, value in heads.items()}
    return backbone_to_hugging_face(backbone, rotary) | HEADS.forwards(transposed)


def from_transposed(weight: Tensor) -> Tensor:
    """Return a transposed convolution (in, out, 2, 2) of stride 2 as a 1 x 1 convolution (4 out, in, 1, 1)."""
    return weight.permute(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)


def to_transposed(weight: Tensor) -> Tensor:
    """Return the inverse of `from_transposed`."""
    return weight.view(-1, 2, 2, weight.shape[1]).permute(3, 0, 1, 2)


def _own_heads(heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the heads in this package's names and forms."""
    return {
        name: from_transposed(value) if _is_upscaling(name) and value.shape[-1] == 2 else value
        for name, value in HEADS.backwards(heads).items()
    }


def _is_upscaling(name: str) -> bool:
    """Return whether a tensor is the weight of a transposed convolution, or its 1 x 1 form."""
    return name.startswith("upscale.") and name.endswith(".conv1.weight")
