"""Weights on disk: safetensors or PyTorch files, one or several, alone or in a folder."""

import json
import struct
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eomt.errors import UserError
from eomt.utils.hub import INDEX_FILES, WEIGHT_FILES, first_line

GIT_LFS = b"version https://git-lfs"
# how a PyTorch file begins: as a zip file, or one of before PyTorch 1.6 as a pickle
PYTORCH = (b"PK", b"\x80")
# what authors keep beside their weights: settings and figures, which run nothing when they are read
NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    *(Namespace, np.dtype),
    *((NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
]
# of readers of damaged files: torch.load takes a pickle apart without checks of its own
DAMAGED = (
    *(SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError),
    *(AttributeError, TypeError, AssertionError, struct.error),
)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a folder or file: safetensors, or a PyTorch file read with `weights_only=True`.

    A folder may hold it in several files, with an index that names them.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    file = path
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES + INDEX_FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}; give a folder of weights")
        file = found[0]
    if not file.is_file():
        raise UserError(f"{path}: there is no such file or folder; give weights in timm or Hugging Face layout")
    if file.name not in INDEX_FILES:
        return _read_file(file)
    state: dict[str, Tensor] = {}
    for name in shards(file):
        if not (file.parent / name).is_file():
            raise UserError(f"{file}: names {name}, which is not beside it; copy it again")
        state |= _read_file(file.parent / name)
    return state


def write_weights(state: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors.

    Args:
        state: Tensors by name, on any device.
        file: Which is made, or written over.
        metadata: Of the file; None takes what transformers asks for.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(plain, file, metadata or {"format": "pt"})


def read_config_fields(file: Path, model_types: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a config.json in Hugging Face layout.

    Args:
        file: One that exists.
        model_types: Families that it may be of.

    Raises:
        UserError: If it cannot be read, or is of another family.
    """
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        model_type = fields["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file}: is no configuration of a model ({type(error).__name__}); copy it again") from error
    if model_type not in model_types:
        raise UserError(f"{file}: model_type {model_type!r}; must be {' or '.join(model_types)}")
    return fields


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index is of.

    Raises:
        UserError: If it is none.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"{index}: is no index of weights ({first_line(error)}); copy it again") from error
    if other := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{index}: names {other[0]!r}, which is no name of a file; copy it again")
    return names


def _read_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file by name."""
    _check_beginning(file)
    state: Any
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            with torch.serialization.safe_globals(HARMLESS):
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # nobody's code is run: the file is damaged, or holds objects instead of tensors
        raise UserError(f"{file}: cannot be read as plain tensors (weights_only); give safetensors") from error
    except DAMAGED as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if isinstance(state, dict) and state and all(str(name).startswith("module.") for name in state):
        # as DataParallel and DistributedDataParallel save them
        state = {name.removeprefix("module."): value for name, value in state.items()}
    if not isinstance(state, dict) or not state:
        raise UserError(f"{file}: holds no tensors by name; give the weights of a model")
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"{file}: holds {name!r}, which is no name of a tensor; give the weights of a model")
        if not isinstance(value, Tensor):
            raise UserError(f"{file}: {name!r} is no tensor but {type(value).__name__}; give weights alone")
    return state


def _check_beginning(file: Path) -> None:
    """Check for what is often found in place of weights, which the readers would only call damaged."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(len(GIT_LFS))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from error
    if beginning == GIT_LFS:
        raise UserError(f"{file}: is a git-LFS pointer to the weights, not the weights; fetch them with git lfs pull")
    if not beginning:
        raise UserError(f"{file}: cannot be read: it is empty; copy it again")
    if file.suffix != ".safetensors" and not beginning.startswith(PYTORCH):
        raise UserError(f"{file}: cannot be read: it begins with {beginning[:8]!r}, as no PyTorch file; copy it again")
