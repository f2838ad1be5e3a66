"""Names of files of models, and how the Hugging Face hub and its libraries are asked."""

import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import is_offline_mode, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from eomt.errors import UserError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# that say which tensor is in which of several files
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
# a name with one of these is meant as that of a file
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")
# what transformers raises for a folder or a configuration that cannot be used
READING_ERRORS = (
    *(OSError, ValueError, RuntimeError, EOFError, ImportError),
    *(SafetensorError, UnpicklingError, StrictDataclassError),
)


@dataclass(frozen=True)
class Wanted:
    """What a field of a configuration takes, to find it and for messages.

    Attributes:
        field: Its name.
        takes: What would do, for people.
        option: Of the command line, where a local one can be given.
        is_file: Whether a file will do, and not only a folder.
        has_owner: Whether repositories are `owner/name`, and not also `name`.
        beside: Names of files that are read beside the weights.
    """

    field: str
    takes: str
    option: str
    is_file: bool = False
    has_owner: bool = True
    beside: tuple[str, ...] = (CONFIG_FILE,)

    @property
    def kind(self) -> str:
        """What it must be if it is local."""
        return "file or folder" if self.is_file else "folder"


def find_local(source: str, wanted: Wanted) -> Path | None:
    """Return a local file or folder; None for a repository whose hub answers, or which is in its cache.

    Raises:
        UserError: If it is neither, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (wanted.is_file and path.is_file()):
        return path
    if path.exists() or not is_repository(source, wanted.has_owner):
        raise UserError(f"{wanted.field}: {source!r} is no {wanted.kind}; give {wanted.takes}")
    require_hub(source, wanted)
    return None


def is_repository(source: str, has_owner: bool = True) -> bool:
    """Return whether a text has the form of a repository's name, and not that of a file.

    Args:
        source: A text that names no local file or folder.
        has_owner: Take `owner/name` alone, and not also `name`.
    """
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return ("/" in source or not has_owner) and Path(source).suffix not in SUFFIXES


def require_hub(repository: str, wanted: Wanted) -> None:
    """Check that a repository can be had, within seconds: the hub's own client tries for three quarters of a minute.

    Raises:
        UserError: If its weights are not in the cache and the hub does not answer.
    """
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES + INDEX_FILES)
    if cached or is_offline_mode():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):
            return  # the hub's client has certificates of its own
        raise UserError(
            f"{wanted.field}: {repository} is not in the cache and {ENDPOINT} cannot be reached ({reason}); "
            f"give a local {wanted.kind} instead: {wanted.option} PATH"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of a message that has any text, shortened; the kind of an error without."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and lists of tensors that were not asked for, within."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
