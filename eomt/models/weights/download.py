"""Finds weights: local files and folders, and repositories of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from eomt.errors import UserError
from eomt.models.weights.eomt.settings import CONFIG_FILE, PREPROCESSOR_FILE
from eomt.models.weights.files import shards
from eomt.utils.hub import INDEX_FILES, WEIGHT_FILES, first_line, require_hub

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")


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


def download(repository: str) -> Path:
    """The folder in the hub's cache that holds the configuration and weights of `repository`.

    Raises:
        UserError: if they cannot be had.
    """
    require_hub(repository, "--model.network.pretrained")
    try:
        hf_hub_download(repository, WEIGHT_FILES[0])
        return Path(hf_hub_download(repository, CONFIG_FILE)).parent
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"pretrained: {repository!r} is no local file or folder and cannot be had from the hub ({reason}); "
            "give a local one: --model.network.pretrained PATH"
        ) from error
