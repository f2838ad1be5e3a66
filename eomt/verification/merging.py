"""Adapters merged into their base: the copy, how far its answers are off, and its folder on disk."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.layers import lora_layers, merge_lora_weights
from eomt.lora.trainable import expected_trainable
from eomt.models.weights.eomt.settings import read_own_settings
from eomt.models.weights.files import read_weights
from eomt.tasks.base import AdaptationTask
from eomt.utils.files import write_folder
from eomt.utils.loaded import mark_loaded
from eomt.utils.modes import evaluation_mode, full_precision

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
# of a network that writes its library's layout instead of its own state dict
LAYOUT_FILE = "config.json"
LAYOUT_FILES = frozenset({LAYOUT_FILE, "preprocessor_config.json", "class_prompts.safetensors", "tokenizer"})
# of a file in the names of a model's authors, where a network can write it
ORIGINAL_SUFFIX = ".pt"
TOLERANCE = 1e-4


def merged_copy(task: AdaptationTask, batch: Any) -> tuple[nn.Module, float, float]:
    """A copy of the task's network in fp32 with its adapters merged, and how far its answers on `batch` are off.

    Returns:
        The copy; the largest absolute difference; the same relative to the largest answer.
    """
    adapted = copy.deepcopy(task.network).float()
    merged = copy.deepcopy(adapted)
    if lora_layers(merged):
        merged = merge_lora_weights(merged)
    with torch.no_grad(), full_precision(task.device.type), evaluation_mode(adapted), evaluation_mode(merged):
        expected, found = task.outputs(adapted, batch).double(), task.outputs(merged, batch).double()
    difference = float((expected - found).abs().max())
    return merged, difference, difference / max(float(expected.abs().max()), 1e-12)


def write_merged(network: nn.Module, folder: Path, config: str | None) -> None:
    """Writes plain weights, and the configuration that opens them; a merged folder that is there is replaced.

    A network with a `write_layout(folder)` writes them as the library does that its model is from.

    Raises:
        UserError: if the folder exists and is something else.
    """

    def write(beside: Path) -> None:
        if hasattr(network, "write_layout"):
            network.write_layout(beside)  # type: ignore[operator]
        else:
            state = {name: value.detach().cpu().contiguous() for name, value in stored_once(network).items()}
            save_file(state, beside / WEIGHTS_FILE, {"format": "pt"})
        if config is not None:
            (beside / CONFIG_FILE).write_text(config)

    write_folder(folder, write, is_merged_folder)


def fill_from_merged(task: AdaptationTask, folder: Path) -> None:
    """Fills a plain network from a merged folder, which also holds what the network's class never trains.

    Raises:
        UserError: for tensors missing or too many, or of another shape.
    """
    state = read_weights(folder)
    trained = expected_trainable(task.network)
    for name, parameter in task.network.named_parameters():
        if name in trained or name not in state:
            continue
        value = state.pop(name)
        if value.shape != parameter.shape:
            raise UserError(
                f"ckpt_path: {name!r} has shape {list(value.shape)}, this network's has {list(parameter.shape)}"
            )
        parameter.data.copy_(value)
        mark_loaded(task.network, [name])
    task.load_state_dict(state)


def stored_once(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without second names: safetensors takes each storage once, and reading fills all that share it."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value
    return state


def is_merged_folder(folder: Path) -> bool:
    """Whether `folder` holds a merged model and nothing else, so that replacing it loses nobody's files."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return WEIGHTS_FILE in names and names <= {WEIGHTS_FILE, CONFIG_FILE} | LAYOUT_FILES


def has_layout(folder: Path) -> bool:
    """Whether a merged folder says itself how it is opened, so that `pretrained` opens it.

    That is so in the layout of another library, and in this package's of an EoMT.
    """
    return (folder / LAYOUT_FILE).is_file() or read_own_settings(folder) is not None


def check_output(output: str | None) -> None:
    """That a merged model can be written there, before anything is built.

    Raises:
        UserError: if none is given, or something else is there.
    """
    if output is None:
        raise UserError("output: null; give the folder that the merged model is written to: --output FOLDER")
    folder = Path(output)
    if folder.suffix == ORIGINAL_SUFFIX and folder.exists():
        raise UserError(f"output: {folder} exists; choose another name")
    if folder.exists() and not is_merged_folder(folder):
        raise UserError(f"output: {folder} exists and is no merged model; choose a folder that does not exist")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"output: {above} is a file; choose another folder")
