"""Trained weights from the Hugging Face hub, into the cache of its client."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from eomt.errors import UserError, first_line
from eomt.utils.hub import is_repository

# no pickles, and no code
WANTED = ("*.safetensors", "*.json", "*.yaml", "*.txt", "*.model", "*.onnx", "*.onnx.data", "*.md")
# between a repository's name and a revision
REVISION = "@"


def fetched(source: str | Path) -> Path:
    """Return a path, or the folder that a repository on the hub was downloaded to, if there is no such path.

    Args:
        source: A path, or `user/name`, perhaps with a revision: `user/name@v1`. What begins with a folder that exists
            is a path.

    Raises:
        UserError: If the repository is not in the cache, and the hub does not give it.
    """
    path = Path(source).expanduser()
    name, _, revision = str(source).partition(REVISION)
    # of `runs/lost` the first part is a folder here, so that a path with a mistake is not asked for on the hub
    if path.exists() or path.parent.is_dir() or not isinstance(source, str) or not is_repository(name):
        return path
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(WANTED)))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{source}: is no path here, and no repository on the hub that you may see; give another, or log in with: "
            "hf auth login"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"{source}: is no path here, and the hub does not give it ({first_line(error)}); give a path, or log in "
            "with: hf auth login"
        ) from error
