"""Loads a timm ViT from a file or folder in timm or Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

from timm.models import eva, vision_transformer

from eomt.errors import UserError
from eomt.models.weights.backbone.names import Backbone, backbone_from_hugging_face, fit_to, is_hugging_face
from eomt.models.weights.files import first_line, read_weights
from eomt.utils.loaded import mark_loaded


def load_backbone(backbone: Backbone, path: str | Path) -> None:
    """Fills a timm ViT from a folder or file in timm or Hugging Face layout; position grid and patches are resampled.

    Raises:
        UserError: for a missing or damaged file, or weights of another architecture.
    """
    state = read_weights(path)
    if {"q.weight", "query.weight"} & {name.removeprefix("network.").replace("_orig_mod.", "") for name in state}:
        raise UserError(f"{path}: is a whole EoMT; give it as --model.network.pretrained, and the encoder false")
    if is_hugging_face(state):
        state = fit_to(backbone, backbone_from_hugging_face(state), path)
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
