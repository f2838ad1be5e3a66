"""A whole image classifier in, from a folder or repository of transformers' `AutoModelForImageClassification`."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.models.weights.backbone.load import fill_backbone
from eomt.models.weights.checks import check_tensors
from eomt.models.weights.classifier.names import CLASSIFIER, MODEL_TYPES, VIT
from eomt.models.weights.classifier.parts import ClassifierParts, mae_of, vit_of
from eomt.models.weights.colors import read_colors
from eomt.models.weights.download import find_cached_weights, find_weights
from eomt.models.weights.files import read_config_fields, read_weights
from eomt.models.weights.mae import ENCODER
from eomt.utils.hub import CONFIG_FILE, PREPROCESSOR_FILE, Wanted
from eomt.utils.loaded import mark_loaded

WANTED = Wanted(
    "pretrained",
    "an image classifier in Hugging Face layout, or a repository",
    "--model.network.pretrained",
    beside=(CONFIG_FILE, PREPROCESSOR_FILE),
)


class Loaded(NamedTuple):
    """What was filled: names of tensors outside of the encoder's model, and the names of the classes, if told."""

    names: list[str]
    class_names: list[str] | None


def load_classifier(network: ClassifierParts, source: str) -> Loaded:
    """Fill a network from a folder or a repository.

    Raises:
        UserError: If there is none, it cannot be read, or it is of another encoder, pooling or number of classes.
    """
    path = find_weights(source, WANTED)
    if not (path / CONFIG_FILE).is_file():
        raise UserError(f"{path}: has no {CONFIG_FILE}; give a folder in Hugging Face layout")
    fields = read_config_fields(path / CONFIG_FILE, MODEL_TYPES)
    state = {name: value.float() for name, value in read_weights(path).items()}
    head = {name.removeprefix(CLASSIFIER): state.pop(name) for name in list(state) if name.startswith(CLASSIFIER)}
    if network.head != "linear" or set(head) != {"weight", "bias"}:
        raise UserError(f"{path}: must hold a linear classifier, and the network have head: linear; train a new one")
    _fill_encoder(network, state, fields, path)
    head["weight"] = _seen(head["weight"], network, fields, path)
    remedy = "for other classes than its own give it to the encoder: --model.network.encoder.pretrained"
    check_tensors(head, network.classifier.state_dict(), path, "the classifier", remedy)
    network.classifier.load_state_dict(head)
    normalize: Any = network.encoder.normalize
    normalize.set_colors(*read_colors(str(path), normalize.colors))
    return Loaded([CLASSIFIER + name for name in head], _class_names(fields, network.num_classes))


def classes_in(source: str) -> int | None:
    """Return the number of classes of weights that are local, or in the hub's cache; else None."""
    path = find_cached_weights(source)
    bias = None if path is None else read_weights(path).get(CLASSIFIER + "bias")
    return None if bias is None else len(bias)


def _fill_encoder(network: ClassifierParts, state: dict[str, Tensor], fields: dict[str, Any], path: Path) -> None:
    if (mae := mae_of(network)) is not None:
        plain = {name.removeprefix(f"{VIT}."): value for name, value in state.items()}
        plain = ENCODER.backwards({name: value for name, value in plain.items() if not name.startswith("pooler.")})
        check_tensors(plain, mae.state_dict(), path, "the encoder", "give the encoder's sizes")
        mae.load_state_dict(plain)
        mark_loaded(mae, plain)
        return
    if (backbone := vit_of(network)) is None:
        raise UserError(f"{path}: is a plain ViT, and the encoder none; choose the encoder that it is of")
    fill_backbone(backbone, state, path)
    if isinstance(epsilon := fields.get("layer_norm_eps"), float):
        for module in backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = epsilon


def _seen(weight: Tensor, network: ClassifierParts, fields: dict[str, Any], path: Path) -> Tensor:
    """Return the weights (C, F) of what the network pools: in DINOv2 the class token and the mean of the patches."""
    if fields["model_type"] == VIT or network.pooling == "cls+mean" or weight.dim() != 2:
        if fields["model_type"] == VIT and network.pooling != "cls":
            raise UserError(f"{path}: its classifier sees the class token alone; give --model.network.pooling cls")
        return weight
    halves = weight.chunk(2, 1)
    seen, unseen = halves if network.pooling == "cls" else halves[::-1]
    if torch.count_nonzero(unseen):
        raise UserError(f"{path}: its classifier sees class token and patches; give --model.network.pooling cls+mean")
    return seen.contiguous()


def _class_names(fields: dict[str, Any], num_classes: int) -> list[str] | None:
    labels = fields.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(index) for index in range(num_classes)}:
        return None
    names = [str(labels[str(index)]) for index in range(num_classes)]
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names
