"""Weights of encoders on disk: timm's layout, Hugging Face's, safetensors or PyTorch files."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path
from pickle import UnpicklingError

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


def load_backbone(backbone: Backbone, path: str | Path) -> None:
    """Fills a timm ViT from a folder or file in timm or Hugging Face layout; position grid and patches are resampled.

    Raises:
        UserError: for a missing or damaged file, or weights of another architecture.
    """
    state = read_weights(path)
    if is_hugging_face(state):
        state = fit_to(backbone, from_hugging_face(state), path)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm.", "mask_token"))}
    own = backbone.state_dict()
    family = eva if isinstance(backbone, eva.Eva) else vision_transformer
    try:
        state = dict(family.checkpoint_filter_fn(state, backbone))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: does not fit {type(backbone).__name__} ({str(error).splitlines()[0]})") from error
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
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES)
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

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    path = Path(path).expanduser()
    file = path
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}")
        file = found[0]
    if not file.is_file():
        raise UserError(f"{path}: there is no such file or folder; give weights in timm or Hugging Face layout")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # nobody's code is run: the file is damaged, or holds objects instead of tensors
        raise UserError(f"{file}: cannot be read as plain tensors (weights_only); give safetensors") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); copy it again") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise UserError(f"{file}: holds no tensors by name; give the weights of a model")
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{file}: {other[0]!r} is no tensor but {type(state[other[0]]).__name__}; give weights alone")
    return state
