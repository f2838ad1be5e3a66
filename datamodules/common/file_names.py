"""Names of files, which tables and file systems spell in several ways."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from eomt.errors import UserError


def name_key(name: str) -> str:
    """Return what spellings of a file's name have in common: photo.PNG is photo.png, in either form of Unicode."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def ends_with(name: str, *endings: str) -> bool:
    """Return whether a name ends in one of these ways, in either form of Unicode and in upper or lower case."""
    wanted = tuple(unicodedata.normalize("NFC", ending).lower() for ending in endings)
    return unicodedata.normalize("NFC", name).lower().endswith(wanted)


def stem_of(name: str, ending: str) -> str:
    """Return what stands before the ending that a name has, see `ends_with`, in one form of Unicode."""
    whole = unicodedata.normalize("NFC", name)
    return whole[: len(whole) - len(unicodedata.normalize("NFC", ending))]


def stems_of(names: Iterable[str], ending: str, place: Path) -> dict[str, str]:
    """Return the names that end with `ending` by what stands before it, see `ends_with`, sorted by name.

    Args:
        names: Of files.
        ending: Of those that are wanted.
        place: Where the files are, for messages.

    Raises:
        UserError: Two names are spellings of one.
    """
    stems: dict[str, str] = {}
    for name in sorted(names):
        if not ends_with(name, ending):
            continue
        stem = stem_of(name, ending)
        if stem in stems:
            raise UserError(f"{place / name}: is {stems[stem]} in another spelling; keep one of the two")
        stems[stem] = name
    return stems


class NameTable:
    """Names among which others are looked up, see `name_key`; just the same name goes first.

    Args:
        names: Of files.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name: name for name in names}
        # of several spellings the first
        self._of_key = {name_key(name): name for name in sorted(self._names, reverse=True)}

    def __call__(self, name: str) -> str | None:
        """Return the name that is spelled like this, None if there is none."""
        return self._names.get(name) or self._of_key.get(name_key(name))


class FileFinder:
    """Finds files by their names, see `name_key`; a file with just that name goes first.

    Args:
        folder: Where relative names start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listings: dict[str, NameTable] = {}

    def __call__(self, name: str) -> Path | None:
        """Return the file, None if there is none."""
        # isfile, for Path.is_file raises where a name is too long for a file
        if not name or os.path.isfile(self.folder / name):
            return self.folder / name if name else None
        found = self.folder / Path(name).anchor
        for part in Path(name).relative_to(Path(name).anchor).parts:
            if not os.path.lexists(found / part):
                part = self._listing(found)(part) or part
            found /= part
        return found if os.path.isfile(found) else None

    def _listing(self, folder: Path) -> NameTable:
        if str(folder) not in self._listings:
            self._listings[str(folder)] = NameTable(os.listdir(folder) if os.path.isdir(folder) else [])
        return self._listings[str(folder)]
