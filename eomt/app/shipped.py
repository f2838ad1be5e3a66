"""The configurations that come with the package, and their bases: found by name from any folder."""

import difflib
import os
import re
from pathlib import Path

from eomt.errors import UserError

PACKAGE = Path(__file__).parents[1]
# how documents and configurations write their places: as they lie in a checkout
FOLDER = "configs"
SUFFIX = ".yaml"
LIST = "`eomt configs` lists them"


def shipped_folder() -> Path:
    """Return the folder of the shipped configurations: in the package, or, in a checkout, beside it."""
    installed = PACKAGE / FOLDER
    return installed if installed.is_dir() else PACKAGE.parent / FOLDER


def shipped_names() -> list[str]:
    """Return the names of the shipped configurations, such as `eomt_lora` and `quickstart/eomt`, sorted."""
    folder = shipped_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob(f"*{SUFFIX}"))


def find_shipped(name: str) -> Path | None:
    """Return a shipped configuration by its name, with or without `configs/` and `.yaml`; None if there is none."""
    name = name.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
    # looked up in the list, so that no name leads out of the folder
    return shipped_folder() / f"{name}{SUFFIX}" if name in shipped_names() else None


def not_shipped(name: str) -> str:
    """Return what would do in place of a name that no shipped configuration has, for messages."""
    bare = name.removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)
    # the last part of a name is enough to be near it: eomt is near quickstart/eomt
    names = {form: known for known in shipped_names() for form in (known.rpartition("/")[2], known)}
    near = dict.fromkeys(names[form] for form in difflib.get_close_matches(bare, names))
    return f"the name of a shipped one{': ' if near else ''}{', '.join(near)} ({LIST})"


def config_path(given: str) -> str:
    """Return the file that `--config` names: an existing path, else, with `.yaml` or without, a shipped configuration.

    Args:
        given: A path, a name, or a configuration itself; what is none of these stays as it is, see `check_config`.
    """
    if "\n" in given or os.path.lexists(given):
        return given
    # a file of the user's goes before a shipped one, as a copy would that they changed
    if os.path.isfile(f"{given}{SUFFIX}"):
        return f"{given}{SUFFIX}"
    return str(find_shipped(given) or given)


def check_config(given: str) -> None:
    """Check that a configuration that was given is there, whether it can be read or not.

    Args:
        given: A path, as `config_path` returns it.

    Raises:
        UserError: If it is neither a path nor the name of a shipped one.
    """
    if os.path.isdir(given) and not given.endswith(SUFFIX) and find_shipped(given) is not None:
        raise UserError(f"{given}: is a folder here; give {given}{SUFFIX} for the shipped configuration of that name")
    try:
        os.stat(given)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{given}: cannot be read ({reason}); give a YAML file, or {not_shipped(given)}") from error


def located(path: str) -> str:
    """Return where a shipped base lies for a path that begins with `configs/` and is not here; any other as it is."""
    inside = Path(path).parts
    if inside[:1] != (FOLDER,) or ".." in inside or os.path.exists(path):
        return path
    found = shipped_folder().joinpath(*inside[1:])
    return str(found) if found.exists() else path


def purpose(config: Path) -> str:
    """Return what a shipped configuration is for: what its comment begins with, behind its commands."""
    comment = []
    for line in config.read_text().splitlines():
        if not line.startswith("#"):
            break
        if text := line.lstrip("# "):
            comment.append(text)
    said = " ".join(text for text in comment if not text.startswith("python "))
    return re.split(r"[.:;] ", said, maxsplit=1)[0].rstrip(".")
