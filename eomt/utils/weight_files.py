"""Files of tensors: safetensors or PyTorch's, one or several, alone or in a folder."""

import os
import re
import struct
import warnings
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from eomt.errors import UserError, first_line
from eomt.utils.reading import check_regular, read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# they say which tensor is in which of several weight files
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
GIT_LFS = b"version https://git-lfs"
# how a PyTorch file begins: as a zip file, or one of before PyTorch 1.6 as a pickle
PYTORCH = (b"PK", b"\x80")
# what authors keep beside their weights: settings, paths and figures, which run nothing when they are read. NumPy's
# numbers and texts are listed, and its objects are not; a path is read as one that never looks at a disk.
NUMPY: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(1).__reduce__()[0]}
HARMLESS: list[Any] = [
    *(Namespace, np.dtype, np.ndarray),
    *((read, f"numpy.{core}.multiarray.{name}") for name, read in NUMPY.items() for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefdUS"),
    *((PurePosixPath, f"pathlib.{module}PosixPath") for module in ("", "_local.")),
    *((PureWindowsPath, f"pathlib.{module}WindowsPath") for module in ("", "_local.")),
]
# what DataParallel, DistributedDataParallel and torch.compile put before the names of what they hold
PARALLEL, COMPILED = "module.", "_orig_mod."
# where training code keeps the weights among other things; DINOv2's as "teacher"
PLACES = ("state_dict", "model", "teacher")
# of readers of damaged files: torch.load takes a pickle apart without checks of its own
DAMAGED = (
    *(SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError),
    # the last two: a number of bytes to read that no machine has
    *(AttributeError, TypeError, AssertionError, struct.error, MemoryError, OverflowError),
)
COPY = "copy it again"
# bytes of a tensor in which fewer stand for all of them, in a file that is smaller
MOST_EXPANDED = 2**28


class WeightIndex(TypedDict):
    """Which tensor is in which file."""

    weight_map: dict[str, str]


INDEX = TypeAdapter(WeightIndex)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a folder or file: safetensors, or a PyTorch file read with `weights_only=True`.

    A folder may hold it in several files, with an index that names them.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    file = path
    # not its own is_dir, which raises where a name is too long for a file
    if os.path.isdir(path):
        found = [path / name for name in WEIGHT_FILES + INDEX_FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}; give a folder of weights")
        file = found[0]
    if not os.path.isfile(file):
        raise UserError(f"{path}: there is no such file or folder; give weights in timm or Hugging Face layout")
    if file.name not in INDEX_FILES:
        return _read_file(file)
    state: dict[str, Tensor] = {}
    for name in shards(file):
        if not (file.parent / name).is_file():
            raise UserError(f"{file}: names {name}, which is not beside it; copy it again")
        state |= _read_file(file.parent / name)
    return state


def shards(index: Path) -> list[str]:
    """Return the names of the files that an index is of.

    Raises:
        UserError: If it is none.
    """
    names = sorted(set(read_json(index, INDEX, COPY)["weight_map"].values()))
    if other := [name for name in names if PurePosixPath(name).name != name]:
        raise UserError(f"{index}: names {other[0]!r}, which is no name of a file beside it; copy it again")
    return names


@dataclass(frozen=True)
class Content:
    """What a file of tensors holds.

    Attributes:
        tensors: By the names that they have in the file.
        metadata: Of a safetensors file, texts by name.
        beside: What a PyTorch file holds beside its tensors, by name.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    beside: dict[str, Any]


def read_content(file: Path) -> Content:
    """Return what one file holds: safetensors, or a PyTorch file read with `weights_only=True`.

    Raises:
        UserError: If it is missing, cannot be read, or holds something else than tensors by name.
    """
    _check_beginning(file)
    state: Any
    metadata: dict[str, str] = {}
    try:
        if file.suffix.lower() == ".safetensors":
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
        else:
            check_stored(file)
            with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
                # of a file that is refused, or read all the same
                warnings.filterwarnings("ignore", "Detected pickle protocol")
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # nobody's code is run: the file is damaged, or holds objects instead of tensors
        found = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        reason = f"cannot be read as plain tensors (weights_only){f', it holds a {found[1]}' if found else ''}"
        raise UserError(f"{file}: {reason}; save the weights alone, or give safetensors") from error
    except DAMAGED as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from error
    whole = state
    for key in PLACES:
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{file}: holds no tensors by name; give the weights of a model")
    most = max(file.stat().st_size, MOST_EXPANDED)
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"{file}: holds {name!r}, which is no name of a tensor; give the weights of a model")
        if not isinstance(value, Tensor):
            raise UserError(f"{file}: {name!r} is no tensor but {type(value).__name__}; give weights alone")
        # a model that was never filled; reading a value of it raises
        if value.is_meta:
            raise UserError(f"{file}: {name!r} has no values (meta device); save the model once its weights are loaded")
        # one number may stand for all of them, until somebody copies it
        if value.layout is not torch.strided or value.nbytes > most:
            raise UserError(
                f"{file}: {name!r} of shape {list(value.shape)} is larger than the file; give plain tensors"
            )
    beside = {} if whole is state else {name: value for name, value in whole.items() if name not in PLACES}
    return Content(state, metadata, beside)


def _read_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, of which there must be some, by their names in a model."""
    state = read_content(file).tensors
    if not state:
        raise UserError(f"{file}: holds no tensors by name; give the weights of a model")
    return _unwrapped(state)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that they have inside the wrappers of PyTorch."""
    state = {name.replace(COMPILED, ""): value for name, value in state.items()}
    while all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    return state


def check_stored(file: Path) -> None:
    """Check that a PyTorch file holds its tensors as they are: packed ones may unpack to any size.

    PyTorch never packs them. What is no archive, as a file of before PyTorch 1.6, is left to its reader.

    Raises:
        UserError: If they are packed, or take more bytes than the file has.
    """
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        size = file.stat().st_size
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); {COPY}") from error
    # members may share their bytes, too
    if any(member.compress_type for member in members) or sum(member.file_size for member in members) > size:
        raise UserError(f"{file}: is packed, and may unpack to any size; save it with torch.save, or give safetensors")


def _check_beginning(file: Path) -> None:
    """Check for what is often found in place of weights, which the readers would only call damaged."""
    check_regular(file, COPY)
    try:
        with file.open("rb") as opened:
            beginning = opened.read(len(GIT_LFS))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from error
    if beginning == GIT_LFS:
        raise UserError(f"{file}: is a git-LFS pointer to the weights, not the weights; fetch them with git lfs pull")
    if not beginning:
        raise UserError(f"{file}: cannot be read: it is empty; copy it again")
    if file.suffix.lower() != ".safetensors" and not beginning.startswith(PYTORCH):
        raise UserError(f"{file}: cannot be read: it begins with {beginning[:8]!r}, as no PyTorch file; copy it again")
