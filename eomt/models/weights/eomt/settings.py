"""What stands beside the tensors of an EoMT: sizes, normalization, names of classes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from typing_extensions import TypedDict

from eomt.errors import UserError, first_line
from eomt.models.weights.colors import Colors, Deviation, Mean, read_colors
from eomt.models.weights.files import COPY, read_config_fields
from eomt.utils.hub import CONFIG_FILE, WEIGHT_FILES
from eomt.utils.reading import Number, checked, parse_json

MODEL_TYPES = ("eomt", "eomt_dinov3")
# in the metadata of a safetensors file of this package's own layout, and the colors in these
METADATA, COLORS = "eomt", "colours"

Side = Annotated[int, Field(ge=1, lt=2**31)]


class OwnSettings(TypedDict):
    """What `metadata_of` writes; `colours` stands there for any number of years."""

    layer_norm_eps: Deviation | None
    img_size: tuple[Side, Side] | None
    colours: tuple[tuple[Mean, Mean, Mean], tuple[Deviation, Deviation, Deviation]] | None
    class_names: list[str] | None


class Rotary(TypedDict, total=False):
    """Of the positions of DINOv3."""

    rope_theta: Number | None


class EoMTConfig(TypedDict, total=False):
    """What is read of a config.json of transformers."""

    image_size: Side | list[Side] | None
    id2label: dict[str, str] | None
    layer_norm_eps: Deviation
    num_blocks: Annotated[int, Field(ge=0, lt=2**16)]
    num_attention_heads: Side
    rope_parameters: Rotary | None
    rope_theta: Number | None
    hidden_act: str


OWN_SETTINGS, EOMT_CONFIG = TypeAdapter(OwnSettings), TypeAdapter(EoMTConfig)


@dataclass(frozen=True)
class Settings:
    """What an EoMT was trained with and no tensor tells; None or empty where nothing says it.

    Attributes:
        layer_norm_eps: Of every norm of the backbone.
        img_size: Height and width in pixels that its positions are of.
        colors: Mean and deviation that its images are normalized with.
        class_names: In the order of the class head's outputs.
        config: The fields of a config.json in Hugging Face layout.
    """

    layer_norm_eps: float | None = None
    img_size: tuple[int, int] | None = None
    colors: tuple[Colors, Colors] | None = None
    class_names: list[str] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read_own_settings(path: Path) -> Settings | None:
    """Return what `metadata_of` has put into a safetensors file, or that of a folder; None for any other.

    Raises:
        UserError: If it cannot be read.
    """
    file = path / WEIGHT_FILES[0] if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(METADATA)
        if text is None:
            return None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: its metadata cannot be read ({first_line(error)}); copy it again") from error
    fields = parse_json(text, OWN_SETTINGS, f"{file}: its metadata", COPY)
    return Settings(fields["layer_norm_eps"], fields["img_size"], fields["colours"], fields["class_names"])


def metadata_of(settings: Settings) -> dict[str, str]:
    """Return `settings`, but for `config`, as the metadata of a safetensors file.

    One field alone: several would be written in any order, and equal weights are to be equal files.
    """
    fields = {
        "layer_norm_eps": settings.layer_norm_eps,
        "img_size": settings.img_size,
        COLORS: settings.colors,
        "class_names": settings.class_names,
    }
    return {METADATA: json.dumps(fields)}


def read_settings(path: Path, colors: tuple[Colors, Colors]) -> Settings:
    """Return what a folder in Hugging Face layout, or that of a file, says beside the tensors.

    Args:
        path: The folder or file.
        colors: Where it does not say which.

    Raises:
        UserError: If it cannot be read, or is of another family.
    """
    folder = path if path.is_dir() else path.parent
    config = _read_eomt_config(folder / CONFIG_FILE)
    size, labels = config.get("image_size"), config.get("id2label") or {}
    names = [labels.get(str(index), f"LABEL_{index}") for index in range(len(labels))]
    return Settings(
        config.get("layer_norm_eps"),
        # transformers' class takes square images alone
        (size, size) if isinstance(size, int) else None,
        read_colors(str(folder), colors),
        names or None,
        config,
    )


def _read_eomt_config(file: Path) -> dict[str, Any]:
    """Return the fields of an EoMT's config.json; none without one."""
    if not file.is_file():
        return {}
    fields = read_config_fields(file, MODEL_TYPES)
    checked(fields, EOMT_CONFIG, str(file), COPY)
    if fields.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{file}: hidden_act {fields['hidden_act']!r}; must be 'gelu', as EoMT's heads have it")
    return fields
