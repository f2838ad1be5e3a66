"""Models of Hugging Face from the hub, a folder or a configuration: found, read strictly, and without chatter."""

from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from eomt.errors import UserError, first_line
from eomt.models.weights.checks import check_tensors
from eomt.models.weights.download import find_weights
from eomt.utils.hub import READING_ERRORS, Wanted, find_local, quiet
from eomt.utils.loaded import mark_loaded

# a folder in Hugging Face layout, a repository on the hub, or the fields of a configuration
Source = str | Mapping[str, Any]


def wanted_model(field: str) -> Wanted:
    """Return what a field of a configuration takes as a model of Hugging Face."""
    takes, option = "one in Hugging Face layout, or a repository", f"--model.network.{field}"
    return Wanted(field, takes, option, has_owner=False)


def find_model(source: str, field: str) -> str:
    """Return a local folder as its path, or the name of a repository, for transformers to read from.

    Raises:
        UserError: If it is neither, or the hub cannot be reached.
    """
    return str(find_local(source, wanted_model(field)) or source)


def read_model_config(source: Source, field: str) -> PreTrainedConfig:
    """Return the configuration of a model.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    name = describe_source(source)
    try:
        if isinstance(source, str):
            with quiet():
                return AutoConfig.from_pretrained(find_model(source, field), trust_remote_code=False)
        if "model_type" not in source:
            raise UserError(f"{field}: has no model_type; give that of a Hugging Face model, such as dinov2 or bart")
        return AutoConfig.for_model(**source)
    except UserError:
        raise
    except READING_ERRORS as error:
        raise UserError(
            f"{field}: {name}: its configuration cannot be read ({first_line(error)}); give another model"
        ) from error


def build_model(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, field: str, **arguments: Any
) -> PreTrainedModel:
    """Return a model with random weights in fp32.

    Raises:
        UserError: For a configuration that cannot be.
    """
    try:
        return model_class._from_config(config, dtype=torch.float32, **arguments)
    except (ZeroDivisionError, *READING_ERRORS) as error:
        raise UserError(
            f"{field}: {config.model_type}: cannot be built ({first_line(error)}); give other sizes"
        ) from error


def load_model(
    model_class: type[PreTrainedModel],
    source: str,
    config: PreTrainedConfig,
    field: str,
    unused: tuple[str, ...] = (),
    **arguments: Any,
) -> PreTrainedModel:
    """Return a model with its weights in fp32, in evaluation mode; what was read is recorded for the audit.

    Args:
        model_class: Its class.
        source: A folder in Hugging Face layout, or a repository on the hub.
        config: Its configuration.
        field: Of our configuration, that the source was given in.
        unused: Beginnings of names of tensors that may be missing.
        arguments: Of the class, besides the configuration.

    Raises:
        UserError: For weights that cannot be read, are missing, or have another shape.
    """
    folder = find_weights(source, wanted_model(field))
    try:
        with quiet():
            loaded: Any = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                # named below, which transformers does not
                ignore_mismatched_sizes=True,
                **arguments,
            )
    except UnpicklingError as error:
        raise UserError(f"{field}: {source}: holds objects instead of plain tensors; give safetensors") from error
    except READING_ERRORS as error:
        raise UserError(
            f"{field}: {source}: its weights cannot be read ({first_line(error)}); copy them again"
        ) from error
    model, report = loaded
    expected = {name: value.shape for name, value in model.state_dict().items()}
    missing = {name for name in report["missing_keys"] if not name.startswith(unused)}
    found = {name: shape for name, shape in expected.items() if name not in missing}
    found |= {name: shape for name, shape, _ in report["mismatched_keys"]}
    check_tensors(found, expected, f"{field}: {source}", "the model of its config.json")
    mark_loaded(model, model.state_dict())
    return model


def describe_source(source: Source) -> str:
    """Return where a model comes from, for people."""
    return source if isinstance(source, str) else f"a new {source.get('model_type')}"
