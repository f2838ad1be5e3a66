"""Where the weights of an EoMT are, and what stands beside their tensors: sizes, normalisation, names of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from eomt.errors import UserError
from eomt.models.hugging_face import Colours, read_colours
from eomt.models.pretrained import INDEX_FILES, WEIGHT_FILES, first_line, require_hub, shards

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
MODEL_TYPES = ("eomt", "eomt_dinov3")
# in the metadata of a safetensors file of this package's own layout
METADATA = "eomt"
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")


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


def locate(source: str) -> Path:
    """A local file or folder, or the folder of a repository in the hub's cache, fetched if need be.

    Raises:
        UserError: if there is none, or the hub has none.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not _is_repository(source):
        raise UserError(
            f"pretrained: {source!r} is no file or folder; give weights of this package, an official "
            "pytorch_model.bin, or a folder or repository in Hugging Face layout"
        )
    require_hub(source, "--model.network.pretrained")
    try:
        return _fetch(source)
    except OSError as error:
        raise UserError(
            f"pretrained: {source!r} is no local file or folder and cannot be had from the hub ({first_line(error)}); "
            "give a local one: --model.network.pretrained PATH"
        ) from error


def locate_cached(source: str) -> Path | None:
    """A local file, or a folder that holds weights or is that of a repository in the hub's cache; asks no network."""
    path = Path(source).expanduser()
    names = WEIGHT_FILES + INDEX_FILES
    if path.exists() or not _is_repository(source):
        return path if path.is_file() or any((path / name).is_file() for name in names) else None
    for name in names:
        file = try_to_load_from_cache(source, name)
        if isinstance(file, str):
            folder = Path(file).parent
            parts = shards(Path(file)) if name in INDEX_FILES else []
            return folder if all((folder / part).is_file() for part in parts) else None
    return None


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


def _is_repository(source: str) -> bool:
    """Whether it has the form of a repository's name, owner/name, and not that of a file."""
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source and Path(source).suffix not in SUFFIXES


def _fetch(repository: str) -> Path:
    """The folder in the hub's cache, after the files that are read have been put there.

    Raises:
        OSError: what the hub's client raises.
        UserError: if the repository has no weights, or the cache only these.
    """
    file = _fetch_weights(repository)
    if file.name in INDEX_FILES:
        for name in shards(file):
            hf_hub_download(repository, name)
    for name in (CONFIG_FILE, PREPROCESSOR_FILE):
        try:
            hf_hub_download(repository, name)
        except LocalEntryNotFoundError as error:
            # without its configuration the network would be another; the cache also knows what a repository has not
            if name == CONFIG_FILE and try_to_load_from_cache(repository, name) is None:
                raise UserError(
                    f"pretrained: {repository!r}: the hub's cache holds its weights but no {name}, and the hub is not "
                    "asked or does not answer; open it once with the network, or give a local folder"
                ) from error
        except EntryNotFoundError:
            continue
    return file.parent


def _fetch_weights(repository: str) -> Path:
    unreachable: LocalEntryNotFoundError | None = None
    for name in WEIGHT_FILES + INDEX_FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:
            # not cached, and nobody to ask: another form may be cached
            unreachable = error
        except EntryNotFoundError:
            continue
    if unreachable is not None:
        raise unreachable
    raise UserError(f"pretrained: {repository!r} holds neither {' nor '.join(WEIGHT_FILES)}; give another repository")
