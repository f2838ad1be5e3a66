"""Where the weights of an EoMT are, and what stands beside their tensors: sizes, normalisation, names of classes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from eomt.errors import UserError
from eomt.models.weights.transformers import Colours, read_colours
from eomt.utils.hub import WEIGHT_FILES, first_line

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
MODEL_TYPES = ("eomt", "eomt_dinov3")
# in the metadata of a safetensors file of this package's own layout
METADATA = "eomt"


@dataclass(frozen=True)
class Settings:
    """What an EoMT was trained with and no tensor tells; None or empty where nothing says it.

    Attributes:
        layer_norm_eps: of every norm of the backbone.
        img_size: height and width in pixels that its positions are of.
        colours: mean and deviation that its images are normalised with.
        class_names: in the order of the class head's outputs.
        config: the fields of a config.json in Hugging Face layout.
    """

    layer_norm_eps: float | None = None
    img_size: tuple[int, int] | None = None
    colours: tuple[Colours, Colours] | None = None
    class_names: list[str] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read_own_settings(path: Path) -> Settings | None:
    """What `metadata_of` has put into a safetensors file, or that of a folder; None for any other.

    Raises:
        UserError: if it cannot be read.
    """
    file = path / WEIGHT_FILES[0] if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(METADATA)
        if text is None:
            return None
        fields = json.loads(text)
        height, width = fields["img_size"]
        (red, green, blue), (red_std, green_std, blue_std) = fields["colours"]
        return Settings(
            fields["layer_norm_eps"],
            (height, width),
            ((red, green, blue), (red_std, green_std, blue_std)),
            fields["class_names"],
        )
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file}: its metadata cannot be read ({first_line(error)}); copy it again") from error


def metadata_of(settings: Settings) -> dict[str, str]:
    """`settings`, but for `config`, as the metadata of a safetensors file.

    One field alone: several would be written in any order, and equal weights are to be equal files.
    """
    names = ("layer_norm_eps", "img_size", "colours", "class_names")
    return {METADATA: json.dumps({name: getattr(settings, name) for name in names})}


def read_settings(path: Path, colours: tuple[Colours, Colours]) -> Settings:
    """What a folder in Hugging Face layout, or that of a file, says beside the tensors.

    Args:
        colours: where it does not say which.

    Raises:
        UserError: if it cannot be read, or is of another family.
    """
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder / CONFIG_FILE)
    size, labels = config.get("image_size"), config.get("id2label") or {}
    names = [str(labels.get(str(index), f"LABEL_{index}")) for index in range(len(labels))]
    return Settings(
        config.get("layer_norm_eps"),
        # transformers' class takes square images alone
        (size, size) if isinstance(size, int) else None,
        read_colours(str(folder), colours),
        names or None,
        config,
    )


def _read_config(file: Path) -> dict[str, Any]:
    """The fields of an EoMT's config.json; empty without one."""
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is no configuration of a model ({type(error).__name__}); copy it again") from error
    found = fields.get("model_type") if isinstance(fields, dict) else None
    if found not in MODEL_TYPES:
        raise UserError(f"{file}: model_type {found!r}, must be {' or '.join(MODEL_TYPES)}")
    if fields.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{file}: hidden_act {fields['hidden_act']!r}, EoMT's heads are made with 'gelu'")
    return fields
