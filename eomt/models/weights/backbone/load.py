"""Weights of a timm ViT in: a file, a folder or a repository, in timm or Hugging Face layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import eva, vision_transformer
from torch import Tensor, nn

from eomt.errors import UserError, first_line, listed
from eomt.models.weights.backbone.channels import fit_channels
from eomt.models.weights.backbone.names import (
    HEADS,
    Backbone,
    backbone_from_hugging_face,
    fit_to,
    is_hugging_face,
    without_holders,
)
from eomt.models.weights.checks import check_final_norm, check_tensors
from eomt.models.weights.download import find_weights
from eomt.models.weights.files import read_weights
from eomt.models.weights.timm_models import WANTED
from eomt.utils.loaded import mark_loaded

REMEDY = "choose the backbone_name that these weights are of"


def load_backbone(backbone: Backbone, source: str) -> None:
    """Fill a timm ViT from a folder, file or repository in timm or Hugging Face layout.

    Its position grid and patches are resampled.

    Raises:
        UserError: For a missing or damaged file, or weights of another architecture.
    """
    path = find_weights(source, WANTED)
    fill_backbone(backbone, read_weights(path), path)


def load_timm(model: nn.Module, source: str) -> None:
    """Fill any timm model without a classifier from a folder, file or repository in timm's layout.

    Raises:
        UserError: For a missing or damaged file, or weights of another architecture.
    """
    path = find_weights(source, WANTED)
    config: Any = getattr(model, "default_cfg", {})
    named = config.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in without_holders(read_weights(path)).items()
        if not name.startswith(heads)
    }
    own = model.state_dict()
    if not own.keys() & state.keys():
        raise UserError(f"{path}: {listed(state, most=1)}: no names of this timm model; give weights in timm's layout")
    check_tensors(state, own, path, "the backbone", REMEDY)
    model.load_state_dict(state)
    mark_loaded(model, state)


def fill_backbone(backbone: Backbone, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill a timm ViT with tensors that were read, as `load_backbone` does.

    Args:
        backbone: The ViT.
        state: Tensors in timm or Hugging Face layout.
        path: Where they were found, for messages.

    Raises:
        UserError: For tensors of another architecture.
    """
    if {"q.weight", "query.weight"} & {name.removeprefix("network.") for name in state}:
        raise UserError(f"{path}: is a whole EoMT; give it as --model.network.pretrained, and the encoder false")
    state = without_holders(state)
    if is_hugging_face(state):
        state = fit_to(backbone, backbone_from_hugging_face(state), path)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    own = backbone.state_dict()
    if "norm.weight" in own:
        check_final_norm(state, path)
    state = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    state = fit_channels(state, backbone.patch_embed)
    family = eva if isinstance(backbone, eva.Eva) else vision_transformer
    if family is eva:
        # elsewhere timm knows by it the names of DINOv2's authors
        state.pop("mask_token", None)
    try:
        state = dict(family.checkpoint_filter_fn(state, backbone))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: does not fit {type(backbone).__name__} ({first_line(error)}); {REMEDY}") from error
    if not own.keys() & state.keys():
        raise UserError(
            f"{path}: {listed(state, most=1)}: no names of a ViT; give weights with the names of timm, of their "
            "authors or of Hugging Face"
        )
    check_tensors(state, own, path, "the backbone", REMEDY)
    backbone.load_state_dict(state)
    mark_loaded(backbone, state)
