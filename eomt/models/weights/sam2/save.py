"""Weights of SAM 2 out: in Hugging Face layout or with official names."""

import logging
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.weights.files import write_weights
from eomt.models.weights.sam2.config import image_size_of, sam2_processor, written_config
from eomt.models.weights.sam2.load import CLASS_PROMPTS_FILE, CLASS_TENSORS
from eomt.models.weights.sam2.names import POSITIONS_TWICE, sam2_to_official
from eomt.utils.files import write_file, write_folder
from eomt.utils.hub import CONFIG_FILE, WEIGHT_FILES

log = logging.getLogger("eomt")


class SAM2Parts(Protocol):
    """What is written of a SAM2.

    Attributes:
        model: The model without adapters.
        class_prompts: One embedding a class, if there are any.
        presence: Its presence head.
        memory: Tensors of the video model, in official names, if they are known.
    """

    model: Sam2Model
    class_prompts: nn.Embedding | None
    presence: nn.Linear | None
    memory: dict[str, Tensor]


def save_hugging_face(network: SAM2Parts, folder: str | Path) -> Path:
    """Write a folder that `SAM2(pretrained=folder)` opens, whole or not at all.

    For square images `Sam2Model.from_pretrained` and `AutoProcessor.from_pretrained` open it too.

    Raises:
        UserError: If the network holds adapters, or the folder exists and is something else.
    """
    require_merged(network.model)
    return write_folder(
        Path(folder), lambda beside: write_hugging_face(network, beside), lambda path: (path / CONFIG_FILE).is_file()
    )


def write_hugging_face(network: SAM2Parts, folder: Path) -> None:
    """Write config.json, model.safetensors and the class prompts, if there are any, into a folder that exists.

    For square images transformers' processor is written too.

    Raises:
        UserError: If the network holds adapters.
    """
    require_merged(network.model)
    written_config(network.model).save_pretrained(folder)
    height, width = image_size_of(network.model.config)
    if height == width:
        sam2_processor((height, width)).save_pretrained(folder)
    else:
        log.info(
            "Images of %d x %d: transformers' Sam2Model takes squares, so eomt.models.SAM2 opens this", height, width
        )
    # not the model's own save_pretrained, which draws a progress bar
    write_weights(network.model.state_dict(), folder / WEIGHT_FILES[0])
    if network.class_prompts is not None and network.presence is not None:
        tensors = (network.class_prompts.weight, *network.presence.parameters())
        write_weights(dict(zip(CLASS_TENSORS, tensors, strict=True)), folder / CLASS_PROMPTS_FILE)


def save_original(network: SAM2Parts, path: str | Path) -> Path:
    """Write a `.pt` with official names, `{"model": state}`, whole or not at all.

    The memory of the video model is written as it was read: only with it does the official code load the file. Class
    prompts, which the official code does not know, are left out.

    Raises:
        UserError: If the network holds adapters, or the file exists.
    """
    require_merged(network.model)
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists; choose another name")
    own = network.model.state_dict()
    if not torch.equal(*(own[name] for name in POSITIONS_TWICE)):
        raise UserError(
            f"{path}: cannot hold two position matrices ({', '.join(POSITIONS_TWICE)}), and these differ; "
            "write a folder instead"
        )
    if not network.memory:
        log.warning("%s: without the memory of the video model, which the official code asks for", path)
    state = {name: value.detach().cpu().contiguous() for name, value in sam2_to_official(own).items()}
    write_file(path, lambda beside: torch.save({"model": state | network.memory}, beside))
    log.info("%s: the official code gives the same masks with build_sam2(..., apply_postprocessing=False)", path)
    return path
