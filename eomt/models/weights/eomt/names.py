"""Names of EoMT's tensors: this package's, those of the official code, and transformers'.

The official ones are this package's after `network.`, but for the transposed convolutions, and for a backbone of
DINOv3, which is transformers' there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from eomt.models.weights.backbone.names import from_hugging_face, is_hugging_face
from eomt.models.weights.backbone.names import to_hugging_face as backbone_to_hugging_face

BACKBONE = "encoder.backbone."
# ours, transformers'
HEADS = (
    ("q.", "query."),
    ("class_head.", "class_predictor."),
    ("mask_head.0.", "mask_head.fc1."),
    ("mask_head.2.", "mask_head.fc2."),
    ("mask_head.4.", "mask_head.fc3."),
    ("upscale.", "upscale_block.block."),
)
# of the loss, which is no part of the network here
LOSS = "criterion."
COLOURS = ("encoder.pixel_mean", "encoder.pixel_std")
# what torch.compile puts into the names below a compiled module
COMPILED = "_orig_mod."
HUGGING_FACE_BACKBONE = ("embeddings.", "layers.", "layernorm.")


@dataclass
class EoMTWeights:
    """Tensors of a file in this package's names.

    Attributes:
        heads: all but the backbone.
        backbone: in timm's names.
        hugging_face: whether the backbone had transformers' names, whose tensors are not quite timm's.
        foreign: whether the file is official or transformers', so that its images are most likely square.
        transformers: whether the heads have transformers' names, so that a config.json beside is of this file.
        deltas: whether the backbone's values are to be added to those it was trained from; None if it cannot be told.
        colours: mean and deviation that the official code normalises images with.
    """

    heads: dict[str, Tensor]
    backbone: dict[str, Tensor]
    hugging_face: bool
    foreign: bool
    transformers: bool
    deltas: bool | None
    colours: tuple[Tensor, Tensor] | None


def sort_names(state: Mapping[str, Tensor]) -> EoMTWeights:
    """Takes the tensors of a file in any layout apart and renames them; names that are in none stay.

    A file of the official code holds deltas if its `encoder.pixel_mean` and `pixel_std`, buffers that no training
    changes, are 0. That is so in the released ones of DINOv3, which the code adds to a network tensor by tensor; one
    with names of DINOv3 and without these buffers may be either.
    """
    heads: dict[str, Tensor] = {}
    backbone: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    foreign = transformers = False
    for full_name, value in state.items():
        name = full_name.replace(COMPILED, "").removeprefix("network.")
        if name in COLOURS:
            buffers[name] = value.float().flatten()
        elif name.startswith((BACKBONE, *HUGGING_FACE_BACKBONE)):
            backbone[name.removeprefix(BACKBONE)] = value
        elif not name.startswith(LOSS):
            foreign = foreign or name.endswith(".conv1.bias")
            transformers = transformers or name == "query.weight"
            heads |= _own_head(name, value)
    mean, std = (buffers.get(name) for name in COLOURS)
    deltas: bool | None = mean is not None and not mean.any() and (std is None or not std.any())
    if "patch_embed.cls_token" in backbone:  # official, of DINOv3
        deltas = None if mean is None else deltas
        moved = (re.sub(r"^patch_embed\.", "embeddings.", name) for name in backbone)
        backbone = {
            re.sub(r"^blocks\.", "layers.", name): value for name, value in zip(moved, backbone.values(), strict=True)
        }
    hugging_face = is_hugging_face(backbone)
    backbone = from_hugging_face(backbone) if hugging_face else backbone
    colours = None
    if mean is not None and std is not None and len(mean) == len(std) == 3 and std.all():
        colours = (mean, std)
    return EoMTWeights(heads, backbone, hugging_face, foreign, transformers, deltas, colours)


def to_hugging_face(heads: Mapping[str, Tensor], backbone: Mapping[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """The inverse of `sort_names`, into transformers' names."""
    renamed = backbone_to_hugging_face(backbone, rotary)
    for own_name, value in heads.items():
        name = own_name
        for ours, theirs in HEADS:
            name = re.sub(f"^{re.escape(ours)}", theirs, name)
        if name.endswith(".conv1.weight"):
            value = to_transposed(value)
        name = re.sub(r"^(upscale_block\.block\.\d+)\.bias$", r"\1.conv1.bias", name)
        renamed[re.sub(r"^(upscale_block\.block\.\d+)\.norm\.", r"\1.layernorm2d.", name)] = value
    return renamed


def from_transposed(weight: Tensor) -> Tensor:
    """A transposed convolution (in, out, 2, 2) of stride 2 as the 1 x 1 convolution (4 out, in, 1, 1) of ScaleBlock."""
    return weight.permute(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1)


def to_transposed(weight: Tensor) -> Tensor:
    """The inverse of `from_transposed`."""
    return weight.view(-1, 2, 2, weight.shape[1]).permute(3, 0, 1, 2)


def _own_head(name: str, value: Tensor) -> dict[str, Tensor]:
    for ours, theirs in HEADS:
        name = re.sub(f"^{re.escape(theirs)}", ours, name)
    name = name.replace(".layernorm2d.", ".norm.")
    if re.fullmatch(r"upscale\.\d+\.conv1\.weight", name) and value.shape[-1] == 2:
        value = from_transposed(value)
    return {re.sub(r"^(upscale\.\d+)\.conv1\.bias$", r"\1.bias", name): value}
