"""Names of weight files, and how the Hugging Face hub and its libraries are asked."""

from __future__ import annotations

import contextlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import is_offline_mode, try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from eomt.errors import UserError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


# that say which tensor is in which of several files
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)


def require_hub(repository: str, option: str = "--model.network.encoder.pretrained") -> None:
    """Says within seconds that the hub cannot be reached: its own client tries again for three quarters of a minute.

    Args:
        option: that takes a folder instead.

    Raises:
        UserError: if the weights of `repository` are not in the cache and the hub does not answer.
    """
    cached = any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES + INDEX_FILES)
    if cached or is_offline_mode():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # the hub's client has certificates of its own
        raise UserError(
            f"pretrained: {repository} is not in the cache and {ENDPOINT} cannot be reached ({reason}); "
            f"give a local folder instead: {option} FOLDER"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of a message that has any text, shortened; the kind of an error without."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


# what transformers raises for a folder or a configuration that cannot be used
READING_ERRORS = (
    *(OSError, ValueError, RuntimeError, EOFError, ImportError),
    *(SafetensorError, UnpicklingError, StrictDataclassError),
)


def locate(source: str, field: str) -> str:
    """A local folder as its path; else `source` itself, a repository whose hub answers.

    Args:
        field: that it was given in, for messages.

    Raises:
        UserError: if it is neither a folder nor the name of a repository, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        raise UserError(f"{field}: {source!r} is no folder; give one in Hugging Face layout, or a repository")
    require_hub(source, f"--model.network.{field}")
    return source


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor lists of tensors that were not asked for, within."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
