"""Names of model files, and whether a name is a local path or a repository on the Hugging Face hub."""

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
from eomt.utils.weight_files import INDEX_FILES, WEIGHT_FILES

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
# a name with one of these endings is a file's, not a repository's
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".safetensors")
# errors that transformers raises for a folder or a configuration that it cannot use; it checks no type in a file
READING_ERRORS = (
    *(OSError, ValueError, RuntimeError, EOFError, ImportError, ArithmeticError, AssertionError),
    *(LookupError, TypeError, AttributeError),
    *(SafetensorError, UnpicklingError, StrictDataclassError),
)


@dataclass(frozen=True)
class Wanted:
    """A field of a configuration that takes a local path or a repository: what it accepts, and words for messages.

    Attributes:
        field: Name of the field.
        takes: What the field accepts, in words.
        option: Option of the command line that sets it to a local path.
        is_file: Whether it accepts a file as well as a folder.
        has_owner: Whether its repositories must be `owner/name`; else `name` alone is one too.
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
        """What a local path must be: a folder, or a file or folder."""
        return "file or folder" if self.is_file else "folder"


def find_local(source: str, wanted: Wanted) -> Path | None:
    """Return the path of a local file or folder; None for a repository that is in the cache or whose hub answers.

    Args:
        source: Path or name of a repository.
        wanted: The field that it was given for.

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
    """Return whether a text has the form of a repository's name and not of a file's.

    Args:
        source: A text that is no path of a local file or folder.
        has_owner: Accept `owner/name` only; else `name` too.
    """
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return ("/" in source or not has_owner) and Path(source).suffix not in SUFFIXES


def require_hub(repository: str, wanted: Wanted) -> None:
    """Check within seconds that a repository is available; the hub's own client would try for 45 seconds.

    Args:
        repository: Name of the repository.
        wanted: The field that it was given for.

    Raises:
        UserError: If its weights are not in the cache and the hub does not answer.
    """
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES + INDEX_FILES)
    if cached or is_offline_mode():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # the hub answers
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):
            return  # the hub's client has certificates of its own
        raise UserError(
            f"{wanted.field}: {repository} is not in the cache and {ENDPOINT} cannot be reached ({reason}); "
            f"give a local {wanted.kind} instead: {wanted.option} PATH"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers within."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
