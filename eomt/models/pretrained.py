"""Weights of encoders on disk: timm's layout, Hugging Face's, safetensors or PyTorch files."""

from __future__ import annotations

import json
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import eva, vision_transformer
from torch import Tensor

from eomt.errors import UserError
from eomt.models.adapter_io import mark_loaded
from eomt.models.backbone_names import Backbone, fit_to, from_hugging_face, is_hugging_face

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# that say which tensor is in which of several files
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
GIT_LFS = b"version https://git-lfs"
# how a PyTorch file begins: as a zip file, or one of before PyTorch 1.6 as a pickle
PYTORCH = (b"PK", b"\x80")
# of readers of damaged files: torch.load takes a pickle apart without checks of its own
DAMAGED = (
    *(SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError),
    *(AttributeError, TypeError, AssertionError, struct.error),
)


def load_backbone(backbone: Backbone, path: str | Path) -> None:
    """Fills a timm ViT from a folder or file in timm or Hugging Face layout; position grid and patches are resampled.

    Raises:
        UserError: for a missing or damaged file, or weights of another architecture.
    """
    state = read_weights(path)
    if {"q.weight", "query.weight"} & {name.removeprefix("network.").replace("_orig_mod.", "") for name in state}:
        raise UserError(f"{path}: is a whole EoMT; give it as --model.network.pretrained, and the encoder false")
    if is_hugging_face(state):
        state = fit_to(backbone, from_hugging_face(state), path)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm.", "mask_token"))}
    own = backbone.state_dict()
    family = eva if isinstance(backbone, eva.Eva) else vision_transformer
    try:
        state = dict(family.checkpoint_filter_fn(state, backbone))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: does not fit {type(backbone).__name__} ({first_line(error)})") from error
    for name, value in state.items():
        if name in own and own[name].shape != value.shape:
            raise UserError(
                f"{path}: {name!r} has shape {list(value.shape)}, the backbone's has {list(own[name].shape)}; "
                "choose the backbone_name that these weights are of"
            )
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        found = f"lacks {missing[0]!r}" if missing else f"holds {unexpected[0]!r}, which the backbone has not"
        raise UserError(f"{path}: {found}; choose the backbone_name that these weights are of")
    backbone.load_state_dict(state)
    mark_loaded(backbone, state)


def require_hub(repository: str, option: str = "--model.network.encoder.pretrained") -> None:
    """Says within seconds that the hub cannot be reached: its own client tries again for three quarters of a minute.

    Args:
        option: that takes a folder instead.

    Raises:
        UserError: if the weights of `repository` are not in the cache and the hub does not answer.
    """
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES + INDEX_FILES)
    if cached or is_offline_mode():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # the hub's client has certificates of its own
        raise UserError(
            f"pretrained: {repository} is not in the cache and {ENDPOINT} cannot be reached ({reason}); "
            f"give a local folder instead: {option} FOLDER"
        ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a folder or file: safetensors, or a PyTorch file read with `weights_only=True`.

    A folder may hold it in several files, with an index that names them.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    file = path
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES + INDEX_FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}")
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


def shards(index: Path) -> list[str]:
    """Names of the files that an index is of.

    Raises:
        UserError: if it is none.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"{index}: is no index of weights ({first_line(error)}); copy it again") from error
    if other := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"{index}: names {other[0]!r}, must be names of files; copy it again")
    return names


def first_line(error: BaseException) -> str:
    """The first line of a message that has any text, shortened; the kind of an error without."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def _read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name."""
    _check_beginning(file)
    state: Any
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # nobody's code is run: the file is damaged, or holds objects instead of tensors
        raise UserError(f"{file}: cannot be read as plain tensors (weights_only); give safetensors") from error
    except DAMAGED as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise UserError(f"{file}: holds no tensors by name; give the weights of a model")
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"{file}: holds {name!r}, which is no name of a tensor; give the weights of a model")
        if not isinstance(value, Tensor):
            raise UserError(f"{file}: {name!r} is no tensor but {type(value).__name__}; give weights alone")
    return state


def _check_beginning(file: Path) -> None:
    """Names what is often found in place of weights, which the readers would only call damaged."""
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
