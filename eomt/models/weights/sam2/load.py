"""Weights of SAM 2 in: original `.pt` files, and folders and repositories in Hugging Face layout, strictly."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from eomt.errors import UserError, listed
from eomt.models.weights.checks import check_tensors
from eomt.models.weights.download import find_weights
from eomt.models.weights.files import read_weights
from eomt.models.weights.sam2.config import HIERA, Size, image_size_of, read_sam2_config, sam2_config
from eomt.models.weights.sam2.names import (
    ONLY_IN_2_1,
    POSITIONS_TWICE,
    is_memory,
    sam2_to_hugging_face,
    sam2_to_official,
)
from eomt.utils.hub import CONFIG_FILE, Wanted

CLASS_PROMPTS_FILE = "class_prompts.safetensors"
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"


class ClassWeights(NamedTuple):
    """What a network that answers without prompts has beside SAM 2."""

    prompts: Tensor  # (C, T * D)
    presence_weight: Tensor  # (C, D)
    presence_bias: Tensor  # (C,)


# their names in the file
CLASS_TENSORS = ("weight", "presence.weight", "presence.bias")


@dataclass
class SAM2Weights:
    """What a source holds.

    Attributes:
        config: Of the architecture.
        state: Tensors of a Sam2Model, in its names.
        memory: Tensors of the video model, in official names; kept to be written again.
        classes: Of a network that answers without prompts.
    """

    config: Sam2Config
    state: dict[str, Tensor]
    memory: dict[str, Tensor] = field(default_factory=dict)
    classes: ClassWeights | None = None


def released_sam2(size: Size) -> str:
    """Return the repository of the released weights of a size."""
    return f"facebook/sam2.1-hiera-{size.replace('_', '-')}"


WANTED = Wanted(
    "pretrained",
    f"an original .pt, a folder in Hugging Face layout, or a repository such as {released_sam2('large')}",
    "--model.network.pretrained",
    is_file=True,
)


def read_sam2(source: str) -> SAM2Weights:
    """Read a local folder in Hugging Face layout, an original `.pt`, or a repository on the hub.

    Raises:
        UserError: If there is no such thing, or it holds other tensors than SAM 2 has.
    """
    path = find_weights(source, WANTED)
    return read_hugging_face(path) if path.is_dir() else read_original(path)


def read_image_size(source: str) -> tuple[int, int] | None:
    """Return height and width of the images that a source is for; None for a `.pt`, which does not say.

    Raises:
        UserError: If there is no such source, or its configuration cannot be read.
    """
    path = find_weights(source, WANTED)
    return image_size_of(read_sam2_config(path)) if path.is_dir() else None


def read_original(path: str | Path) -> SAM2Weights:
    """Read a `.pt` of SAM 2 or 2.1 in any of the four sizes; the size is that of its tensors.

    Read with `weights_only=True`: no code in the file is run.

    Raises:
        UserError: For a file that cannot be read, of another architecture, or with tensors missing or too many.
    """
    state = read_weights(path)
    size = infer_size(state, path)
    image, memory = original_shapes(size)
    expected = dict(image)
    # a file without any of the memory serves images all the same
    if any(is_memory(name) for name in state):
        is_2_1 = any(name in state for name in ONLY_IN_2_1)
        expected |= {name: shape for name, shape in memory.items() if is_2_1 or name not in ONLY_IN_2_1}
    check_tensors(state, expected, path, f"SAM 2 ({size})")
    kept = {name: value for name, value in state.items() if is_memory(name)}
    state = {name: value for name, value in state.items() if name not in kept}
    return SAM2Weights(sam2_config(size), _in_fp32(sam2_to_hugging_face(state)), kept)


def infer_size(state: Mapping[str, Tensor], path: str | Path) -> Size:
    """Return which of the four sizes a state dict in official names is of: by its width and number of blocks.

    Raises:
        UserError: If it is of none.
    """
    if PATCHES not in state:
        raise UserError(
            f"{path}: lacks {PATCHES!r}, so it is no original checkpoint of SAM 2; "
            "for Hugging Face's names give the folder that holds config.json"
        )
    blocks = {int(match[1]) for name in state if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name))}
    width, depth = state[PATCHES].shape[0], max(blocks, default=-1) + 1
    for size, hiera in HIERA.items():
        if (hiera.width, sum(hiera.blocks)) == (width, depth):
            return size
    known = ", ".join(f"{hiera.width} x {sum(hiera.blocks)} ({size})" for size, hiera in HIERA.items())
    raise UserError(
        f"{path}: an image encoder {width} wide with {depth} blocks is no size of SAM 2; give one of {known}"
    )


def original_shapes(size: Size) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """Return names and shapes in an original checkpoint of SAM 2.1: what images need, and the video model's memory."""
    with torch.device("meta"):
        image = sam2_to_official(Sam2Model(sam2_config(size)).state_dict())
        # the memory is the same in all sizes
        memory = sam2_to_official(Sam2VideoModel(Sam2VideoConfig()).state_dict())
    return (
        {name: value.shape for name, value in image.items()},
        {name: value.shape for name, value in memory.items() if is_memory(name)},
    )


def read_hugging_face(folder: Path) -> SAM2Weights:
    """Read a folder in Hugging Face layout, of a Sam2Model or a Sam2VideoModel (as on the hub).

    Raises:
        UserError: For files missing or damaged, or tensors missing, too many or of another shape.
    """
    config = read_sam2_config(folder)
    state = read_weights(folder)
    memory = {name: value for name, value in state.items() if is_memory(name)}
    state = {name: value for name, value in state.items() if name not in memory}
    # one matrix under two names: some versions of transformers write it once
    for name, twin in (POSITIONS_TWICE, POSITIONS_TWICE[::-1]):
        if twin in state:
            state.setdefault(name, state[twin].clone())
    with torch.device("meta"):
        own = Sam2Model(config).state_dict()
    check_tensors(state, own, folder, f"the model of its {CONFIG_FILE}")
    return SAM2Weights(config, _in_fp32(state), sam2_to_official(memory), _read_classes(folder / CLASS_PROMPTS_FILE))


def _read_classes(file: Path) -> ClassWeights | None:
    """Return what the file of class prompts holds; None if there is no such file.

    Raises:
        UserError: If it has no presence head, as those of 0.1.0.
    """
    if not file.is_file():
        return None
    found = read_weights(file)
    if found.keys() != set(CLASS_TENSORS):
        raise UserError(
            f"{file}: holds [{listed(sorted(found))}] instead of {sorted(CLASS_TENSORS)}; train the class prompts again"
        )
    return ClassWeights(*(found[name].float() for name in CLASS_TENSORS))


def _in_fp32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in fp32."""
    return {name: value.float() for name, value in state.items()}
