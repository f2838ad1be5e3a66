"""Networks with adapters merged into their base: their folders on disk."""

from pathlib import Path

import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.files import fill
from eomt.lora.trainable import expected_trainable
from eomt.models.network import Network
from eomt.models.weights.files import read_weights
from eomt.utils.files import is_empty, write_folder
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.loaded import mark_loaded
from eomt.verification.adapters import TOLERANCE as TOLERANCE
from eomt.verification.adapters import merged_copy as merged_copy
from eomt.verification.adapters import quantized_difference as quantized_difference

WEIGHTS_FILE = WEIGHT_FILES[0]
CONFIG_FILE = "config.yaml"
# a file with the tensor names of a model's authors, for networks that can write one
ORIGINAL_SUFFIX = ".pt"


def write_merged(network: Network, folder: Path, config: str | None) -> None:
    """Write a plain network and the configuration that opens it; replace a merged folder that exists.

    Args:
        network: Network without adapters.
        folder: Folder that is written, whole or not at all.
        config: Content of the `config.yaml` beside the weights; None writes none.

    Raises:
        UserError: If the folder exists and is something else.
    """

    def write(beside: Path) -> None:
        network.write(beside)
        if config is not None:
            (beside / CONFIG_FILE).write_text(config)

    write_folder(folder, write, lambda path: is_merged_folder(path, network.files))


def fill_from_merged(network: nn.Module, folder: Path) -> None:
    """Fill a plain network from a merged folder, which holds all tensors, also those that are never trained.

    Args:
        network: Plain network.
        folder: Merged folder.

    Raises:
        UserError: If tensors are missing or too many, or a shape differs.
    """
    state = read_weights(folder)
    trained = expected_trainable(network)
    for name, parameter in network.named_parameters():
        if name in trained or name not in state:
            continue
        value = state.pop(name)
        if value.shape != parameter.shape:
            raise UserError(
                f"ckpt_path: {name!r} has shape {list(value.shape)}; this network's has {list(parameter.shape)}"
            )
        with torch.no_grad():
            # not through `data`: outputs that are kept of frozen weights go by the version of these
            parameter.copy_(value)
        mark_loaded(network, [name])
    fill(network, state, "ckpt_path")


def is_merged_folder(folder: Path, files: frozenset[str]) -> bool:
    """Return whether a folder holds a merged network and nothing else, so that it can be replaced.

    Args:
        folder: Any path.
        files: Names of the files that the network writes.
    """
    # without a configuration it may be a base that came from elsewhere, in the same layout
    return holds_only_merged(folder, files) and (folder / CONFIG_FILE).exists()


def holds_only_merged(folder: Path, files: frozenset[str]) -> bool:
    """Return whether a folder holds a network, perhaps without the configuration that opens it, and nothing else.

    Args:
        folder: Any path.
        files: Names of the files that the network writes.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {WEIGHTS_FILE} <= names <= files | {CONFIG_FILE}


def check_output(output: str | None, files: frozenset[str]) -> None:
    """Check that a merged network can be written to `output`, before anything is built.

    Args:
        output: A folder, or a `.pt` file with the tensor names of the network's authors.
        files: Names of the files that the network writes into a folder.

    Raises:
        UserError: If no output is given, or something else is there.
    """
    if output is None:
        raise UserError("output: null; give the folder that the merged model is written to: --output FOLDER")
    folder = Path(output)
    if folder.suffix == ORIGINAL_SUFFIX and folder.exists():
        raise UserError(f"output: {folder} exists; choose another name")
    if folder.exists() and not is_empty(folder) and not is_merged_folder(folder, files):
        raise UserError(f"output: {folder} exists and is no merged model; choose another folder")
    if folder.suffix and folder.suffix != ORIGINAL_SUFFIX and not folder.is_dir():
        raise UserError(f"output: {folder}; give a folder, or a {ORIGINAL_SUFFIX} file with the authors' tensor names")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"output: {above} is a file; choose another folder")
