"""Writes SAM 2 in Hugging Face layout or with official names."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.models.weights.sam2.config import CONFIG_FILE
from eomt.models.weights.sam2.load import CLASS_PROMPTS_FILE, log
from eomt.models.weights.sam2.names import POSITIONS_TWICE, sam2_to_official
from eomt.utils.files import write_folder
from eomt.utils.hub import WEIGHT_FILES

if TYPE_CHECKING:
    from eomt.models.sam2 import SAM2


def save_hugging_face(network: SAM2, folder: str | Path) -> Path:
    """Writes a folder that `Sam2Model.from_pretrained` and `SAM2(pretrained=folder)` open, whole or not at all.

    Raises:
        UserError: if the network holds adapters, or the folder exists and is something else.
    """
    require_merged(network)
    return write_folder(
        Path(folder), lambda beside: write_hugging_face(network, beside), lambda path: (path / CONFIG_FILE).is_file()
    )


def write_hugging_face(network: SAM2, folder: Path) -> None:
    """Writes config.json, model.safetensors and the class prompts, if there are any, into a folder that exists.

    Raises:
        UserError: if the network holds adapters.
    """
    require_merged(network)
    config = copy.deepcopy(network.model.config)
    config.architectures = ["Sam2Model"]
    config.save_pretrained(folder)
    # not the model's own save_pretrained, which draws a progress bar
    save_file(_plain(network.model.state_dict()), folder / WEIGHT_FILES[0], {"format": "pt"})
    if network.class_prompts is not None:
        save_file(_plain(network.class_prompts.state_dict()), folder / CLASS_PROMPTS_FILE, {"format": "pt"})


def save_original(network: SAM2, path: str | Path) -> Path:
    """Writes a `.pt` with official names, `{"model": state}`, whole or not at all.

    The memory of the video model is written as it was read: only with it does the official code load the file. Class
    prompts, which the official code does not know, are left out.

    Raises:
        UserError: if the network holds adapters, or the file exists.
    """
    require_merged(network)
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists; choose another name")
    own = network.model.state_dict()
    if not torch.equal(*(own[name] for name in POSITIONS_TWICE)):
        raise UserError(f"{path}: cannot hold two position matrices ({', '.join(POSITIONS_TWICE)}), and these differ")
    if not network.memory:
        log.warning("%s: without the memory of the video model, which the official code asks for", path)
    state = _plain(sam2_to_official(own))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        torch.save({"model": state | network.memory}, beside)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return path


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
