"""Hugging Face's models from the hub, a folder or a configuration: found, read strictly, and without chatter."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from eomt.errors import UserError
from eomt.utils.hub import READING_ERRORS, first_line, locate, quiet
from eomt.utils.loaded import mark_loaded

# a folder in Hugging Face layout, a repository on the hub, or the fields of a configuration
Source = str | Mapping[str, Any]
# of red, green and blue, 0 to 1
Colours = tuple[float, float, float]


def read_config(source: Source, field: str) -> PreTrainedConfig:
    """The configuration of a model.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    name = describe(source)
    try:
        if isinstance(source, str):
            with quiet():
                return AutoConfig.from_pretrained(locate(source, field))
        if "model_type" not in source:
            raise UserError(f"{field}: has no model_type; give that of a Hugging Face model, such as dinov2 or bart")
        return AutoConfig.for_model(**source)
    except UserError:
        raise
    except READING_ERRORS as error:
        raise UserError(f"{field}: {name}: its configuration cannot be read ({first_line(error)})") from error


def build(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, field: str, **arguments: Any
) -> PreTrainedModel:
    """A model with random weights in fp32.

    Raises:
        UserError: for a configuration that cannot be.
    """
    try:
        return model_class._from_config(config, dtype=torch.float32, **arguments)
    except (ZeroDivisionError, *READING_ERRORS) as error:
        raise UserError(f"{field}: {config.model_type}: cannot be built ({first_line(error)})") from error


def load(
    model_class: type[PreTrainedModel],
    source: str,
    config: PreTrainedConfig,
    field: str,
    unused: tuple[str, ...] = (),
    **arguments: Any,
) -> PreTrainedModel:
    """A model with its weights in fp32, in evaluation mode; what was read is recorded for the audit.

    Args:
        unused: beginnings of names of tensors that may be missing.

    Raises:
        UserError: for weights that cannot be read, are missing, or have another shape.
    """
    try:
        with quiet():
            loaded: Any = model_class.from_pretrained(
                locate(source, field),
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                # named below, which transformers does not
                ignore_mismatched_sizes=True,
                **arguments,
            )
    except UserError:
        raise
    except UnpicklingError as error:
        raise UserError(f"{field}: {source}: holds objects instead of plain tensors; give safetensors") from error
    except READING_ERRORS as error:
        raise UserError(f"{field}: {source}: its weights cannot be read ({first_line(error)})") from error
    model, report = loaded
    if wrong := sorted(report["mismatched_keys"]):
        name, stored, own = wrong[0]
        raise UserError(f"{field}: {source}: {name!r} has shape {list(stored)}, its config.json says {list(own)}")
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith(unused)):
        raise UserError(f"{field}: {source}: lacks {missing[0]!r} ({len(missing)} such tensors); copy it again")
    mark_loaded(model, model.state_dict())
    return model


def describe(source: Source) -> str:
    """Where a model comes from, for people."""
    return source if isinstance(source, str) else f"a new {source.get('model_type')}"


def as_colours(values: Tensor) -> Colours:
    """Three numbers in any shape."""
    red, green, blue = values.flatten().tolist()
    return red, green, blue


def read_colours(place: str, default: tuple[Colours, Colours]) -> tuple[Colours, Colours]:
    """Mean and deviation that a folder or repository says its images are normalised with, `default` if it does not.

    Raises:
        UserError: for a file that cannot be read, or values that cannot be.
    """
    folder = Path(place)
    if folder.is_dir() and not any(
        (folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")
    ):
        return default
    try:
        with quiet():
            fields, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except OSError as error:
        if folder.is_dir():
            raise UserError(f"{place}: its preprocessor_config.json cannot be read ({first_line(error)})") from error
        return default
    if fields.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    found = []
    for name, values in zip(("image_mean", "image_std"), default, strict=True):
        stored = fields.get(name, list(values))
        good = isinstance(stored, list) and len(stored) == 3 and all(isinstance(v, int | float) for v in stored)
        if not good or (name == "image_std" and min(stored) <= 0):
            raise UserError(f"{place}: preprocessor_config.json: {name} {stored!r}, must be three numbers")
        found.append((float(stored[0]), float(stored[1]), float(stored[2])))
    return found[0], found[1]
