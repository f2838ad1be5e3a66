"""Weights of SAM 2 out: in Hugging Face layout or with official names."""

import copy
import logging
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import Sam2Model

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.weights.files import write_weights
from eomt.models.weights.sam2.load import CLASS_PROMPTS_FILE
from eomt.models.weights.sam2.names import POSITIONS_TWICE, sam2_to_official
from eomt.utils.files import write_file, write_folder
from eomt.utils.hub import CONFIG_FILE, WEIGHT_FILES

log = logging.getLogger("eomt")


class SAM2Parts(Protocol):
    """What is written of a SAM2.

    Attributes:
        model: The model without adapters.
        class_prompts: One embedding a class, if there are any.
        memory: Tensors of the video model, in official names, if they are known.
    """

    model: Sam2Model
    class_prompts: nn.Embedding | None
    memory: dict[str, Tensor]


def save_hugging_face(network: SAM2Parts, folder: str | Path) -> Path:
    """Write a folder that `Sam2Model.from_pretrained` and `SAM2(pretrained=folder)` open, whole or not at all.

    Raises:
        UserError: If the network holds adapters, or the folder exists and is something else.
    """
    require_merged(network.model)
    return write_folder(
        Path(folder), lambda beside: write_hugging_face(network, beside), lambda path: (path / CONFIG_FILE).is_file()
    )


def write_hugging_face(network: SAM2Parts, folder: Path) -> None:
    """Write config.json, model.safetensors and the class prompts, if there are any, into a folder that exists.

    Raises:
        UserError: If the network holds adapters.
    """
    require_merged(network.model)
    config = copy.deepcopy(network.model.config)
    config.architectures = ["Sam2Model"]
    config.save_pretrained(folder)
    # not the model's own save_pretrained, which draws a progress bar
    write_weights(network.model.state_dict(), folder / WEIGHT_FILES[0])
    if network.class_prompts is not None:
        write_weights(network.class_prompts.state_dict(), folder / CLASS_PROMPTS_FILE)


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
    return path
