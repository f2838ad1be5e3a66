"""What a killed training left in the folder of its run."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from eomt.app.run_lock import LOCK, RunLock
from eomt.errors import UserError
from eomt.utils.files import REPLACED, WRITING

# what a run writes into its folder, in place of earlier ones
_FOLDER = r"best_(lora|merged)_step.+|encoder"
_FILE = r"(best|latest|final)_lora_step.+|config|metrics|splits|timing|training_summary"
# at the end of names as `tempfile` makes them
_RANDOM = r"[a-z0-9_]{8}"
_UNFINISHED = rf"{re.escape(WRITING)}{_RANDOM}(\.\w+)?"
# the last are those of version 0.1
LEFTOVER = re.compile(
    rf"\.({_FOLDER}|{_FILE}){_UNFINISHED}|\.({_FOLDER}){re.escape(REPLACED)}|\.best_(lora|merged)_step.+\.{_RANDOM}"
)
# names in folders that only this package fills follow from those of images
INNER_LEFTOVER = re.compile(rf"\..+{_UNFINISHED}")
INNER_FOLDER = re.compile(r"pictures|results|(predictions|scores)(_\d+)?")
EARLY_FILE = re.compile(r"\.lock|config\.yaml|training\.log|splits\.json|metrics\.csv|timing\.csv")
# adapter and merged folder of step 0 are the base as it came, and are written before the checkpoint
EARLY_FOLDER = re.compile(r"best_(lora|merged)_step0(_.*)?")
EARLY_PICTURE = re.compile(r"train_batch\.png|val_step\d+\.png")
WEIGHTS_SUFFIXES = (".json", ".safetensors", ".yaml")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in the folder of a run, and had not given its name yet.

    A folder that was about to be replaced gets its name back. Only names that this package makes are removed, and only
    where it makes them: whatever else lies in the folder is the user's.
    """
    for path in list(_leftovers(folder)):
        whole = path.with_name(path.name[1:].removesuffix(REPLACED))
        if path.name.endswith(REPLACED) and not whole.exists():
            path.rename(whole)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_abandoned(folder: Path) -> bool:
    """Return whether a training was killed in a folder before it had saved anything to go on from.

    Only then may the folder be begun again: it holds the lock and what a training writes before its first checkpoint,
    and nothing else.
    """
    if folder.is_symlink() or not (folder / LOCK).is_file():
        return False
    if not all(_is_early(path) for path in folder.iterdir()):
        return False
    try:
        RunLock(folder).release()
    except UserError:
        return False
    return True


def _leftovers(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            yield path
        elif INNER_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield from (inner for inner in path.rglob(".*") if INNER_LEFTOVER.fullmatch(inner.name))


def _is_early(path: Path) -> bool:
    """Return whether a file or folder is one that a training writes before its first checkpoint, with all in it."""
    if path.is_symlink():
        return False
    if LEFTOVER.fullmatch(path.name):
        return True
    if path.is_file():
        return EARLY_FILE.fullmatch(path.name) is not None
    inside = [inner for inner in path.rglob("*") if not inner.is_dir()]
    if path.name == "pictures":
        return all(EARLY_PICTURE.fullmatch(inner.name) or INNER_LEFTOVER.fullmatch(inner.name) for inner in inside)
    if not EARLY_FOLDER.fullmatch(path.name):
        return False
    # a tokenizer has files of many names
    return all(inner.suffix in WEIGHTS_SUFFIXES or inner.parent.name == "tokenizer" for inner in inside)
