"""Where weights are: local files and folders, and repositories of the Hugging Face hub, in one file or several."""

from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from eomt.errors import UserError, first_line
from eomt.models.weights.files import shards
from eomt.utils.hub import CONFIG_FILE, INDEX_FILES, WEIGHT_FILES, Wanted, find_local, is_repository


def find_weights(source: str, wanted: Wanted) -> Path:
    """Return a local file or folder, or the folder of a repository in the hub's cache, fetched if need be.

    Raises:
        UserError: If there is none, the hub has none or cannot be reached, or the cache lacks the configuration.
    """
    if path := find_local(source, wanted):
        return path
    try:
        return _fetch(source, wanted)
    except OSError as error:
        raise UserError(
            f"{wanted.field}: {source!r} is no local {wanted.kind} and cannot be had from the hub "
            f"({first_line(error)}); give a local one: {wanted.option} PATH"
        ) from error


def find_cached_weights(source: str) -> Path | None:
    """Return a local file, or a folder with weights, local or of a repository in the hub's cache; ask no network.

    Returns:
        None where there is none, or not the whole of it.
    """
    path = Path(source).expanduser()
    names = WEIGHT_FILES + INDEX_FILES
    if path.exists() or not is_repository(source):
        return path if path.is_file() or any((path / name).is_file() for name in names) else None
    for name in names:
        file = try_to_load_from_cache(source, name)
        if isinstance(file, str):
            folder = Path(file).parent
            parts = shards(Path(file)) if name in INDEX_FILES else []
            return folder if all((folder / part).is_file() for part in parts) else None
    return None


def _fetch(repository: str, wanted: Wanted) -> Path:
    """Return the folder in the hub's cache, after the files that are read have been put there.

    Raises:
        OSError: What the hub's client raises.
        UserError: If the repository has no weights, or the cache only these.
    """
    file = _fetch_weights(repository, wanted)
    if file.name in INDEX_FILES:
        for name in shards(file):
            hf_hub_download(repository, name)
    for name in wanted.beside:
        try:
            hf_hub_download(repository, name)
        except LocalEntryNotFoundError as error:
            # without its configuration the network would be another; the cache also knows what a repository has not
            if name == CONFIG_FILE and try_to_load_from_cache(repository, name) is None:
                raise UserError(
                    f"{wanted.field}: {repository!r}: the hub's cache holds its weights but no {name}, and the hub is "
                    "not asked or does not answer; open it once with the network, or give a local folder"
                ) from error
        except EntryNotFoundError:
            continue
    return file.parent


def _fetch_weights(repository: str, wanted: Wanted) -> Path:
    """Return the file of the weights, or the index of several; see `_fetch`."""
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
    names = " nor ".join(WEIGHT_FILES)
    raise UserError(f"{wanted.field}: {repository!r} holds neither {names}; give another repository")
