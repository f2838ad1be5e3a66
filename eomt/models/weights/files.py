"""Weights of models: written as safetensors, and the settings beside them; `eomt.utils.weight_files` reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from eomt.errors import UserError, shortened
from eomt.utils.reading import read_json
from eomt.utils.weight_files import COPY, DAMAGED, check_stored, read_weights, shards

__all__ = ["COPY", "DAMAGED", "check_stored", "read_config_fields", "read_weights", "shards", "write_weights"]


class ModelConfig(TypedDict):
    """What is read of every config.json in Hugging Face layout; each network looks at more."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model_type: str


MODEL_CONFIG: TypeAdapter[Any] = TypeAdapter(ModelConfig)


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
    fields: dict[str, Any] = read_json(file, MODEL_CONFIG, COPY)
    if fields["model_type"] not in model_types:
        raise UserError(f"{file}: model_type {shortened(fields['model_type'])!r}; must be {' or '.join(model_types)}")
    return fields
