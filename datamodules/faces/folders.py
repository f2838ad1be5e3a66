"""Faces with labels on disk: folders of bona fide photos and morphs, and the identities in their file names."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from datamodules.common.orientation import Box
from datamodules.common.pairs import find_image_files
from datamodules.common.splits import SPLITS
from eomt.errors import UserError, listed
from eomt.utils.images import IMAGE_EXTENSIONS
from eomt.utils.patterns import Pattern

BONA_FIDE, MORPH = 0, 1
CLASS_NAMES = ("bonafide", "morph")
# attack of morphs about which nothing is known
UNNAMED_ATTACK = "morph"

SMDD_FOLDERS = {"o25k_bf_t": BONA_FIDE, "m15k_t": MORPH}
SMDD_IDENTITY = r"img\d+"
# FRLL: 001_03, 001_002; FRGC: 04927d04, 02463d252.png_vs_04494d50; FERET: 00001_930831_fa. A number behind a letter is
# no person but a session.
IDIAP_IDENTITY = r"(?<![0-9A-Za-z])(?:\d{5}|\d{3})(?!\d)"

# what tables hold where nothing is known
BLANKS = ("", "nan", "na", "n/a", "<na>", "none", "null", "-", "?")


@dataclass(frozen=True)
class Face:
    """A photo or a morph.

    Args:
        name: Its path relative to the data set's folder; as it is listed, where a CSV lists it.
        image: The file.
        label: 0 for a bona fide photo, 1 for a morph.
        attack: How a morph was made; "" for a bona fide photo.
        identities: The people who are seen in it, as `identity_of` spells them or with the zeros of a known set, two
            in a morph; empty where nobody says.
        split: "train", "val" or "test" where the data set says so; else "".
        dataset: Name of the data set.
        box: Left, top, right and bottom of the face in pixels, right and bottom exclusive; None for the whole image.
        keeps_zeros: Whether the people are numbered by a known set's file names, in which zeros before a number count.
    """

    name: str
    image: Path
    label: int
    attack: str = ""
    identities: frozenset[str] = frozenset()
    split: str = ""
    dataset: str = ""
    box: Box | None = None
    keeps_zeros: bool = False

    @property
    def is_identified(self) -> bool:
        """True where everybody in it is known: one person in a photo, two or more in a morph."""
        return len(self.identities) > self.label


def find_labeled_faces(folder: Path, identity_pattern: str | None) -> list[Face]:
    """Find the faces of a folder in one of the known layouts; `train`, `val` and `test` may each hold one.

    Args:
        folder: Holds `bonafide` and `morph` (whose folders name attacks); SMDD's `o25k_bf_t` and `m15k_t`; or `raw`
            and `morph_<attack>`, as FRLL-, FRGC- and FERET-Morphs do.
        identity_pattern: Regular expression; each match, or its first group, is an identity: in a file's name, or else
            in the folders below `bonafide` or the attack's. Where it finds none, that of the layout is tried. None
            takes a folder below `bonafide` for a person.

    Raises:
        UserError: The folder holds no such layout, or one of its folders no image.
    """
    if not folder.is_dir():
        raise UserError(f"path: {folder} is neither a folder nor a CSV file; give the data set's folder")
    if not (folder / "train").is_dir():
        return _faces_of_layout(folder, folder, identity_pattern)
    if not (folder / "val").is_dir():
        raise UserError(f"{folder / 'val'}: no such folder; add one beside 'train', or let images be split")
    return [
        replace(face, split=split)
        for split in SPLITS
        if (folder / split).is_dir()
        for face in _faces_of_layout(folder / split, folder, identity_pattern)
    ]


def _faces_of_layout(folder: Path, root: Path, identity_pattern: str | None) -> list[Face]:
    """Return the faces of one layout, named relative to `root`."""
    faces = []
    parts, pattern = _layout(folder)
    for part, label, attack in parts:
        names = find_image_files(part)
        if not names:
            raise UserError(f"{part}: no image ({listed(IMAGE_EXTENSIONS)}); put the {CLASS_NAMES[label]} images there")
        for name in names:
            file = part / name
            folders = name.split("/")[:-1]
            # `morph/opencv/1.png`
            by_folder = folders.pop(0) if folders and part.name == "morph" else attack
            inner = "/".join((*folders, file.name))
            identities, keeps_zeros = identities_in_path(inner, identity_pattern), False
            if not identities and pattern is not None:
                identities, keeps_zeros = frozenset(match.group() for match in re.finditer(pattern, file.stem)), True
            if not identities and identity_pattern is None and label == BONA_FIDE and folders:
                identities, keeps_zeros = identities_of([folders[0]]), False
            name_in_set = file.relative_to(root).as_posix()
            faces.append(Face(name_in_set, file, label, by_folder, identities, keeps_zeros=keeps_zeros))
    return faces


def _layout(folder: Path) -> tuple[list[tuple[Path, int, str]], str | None]:
    """Return folder, label and attack of each part, and the pattern of identities that goes with the layout."""
    if (folder / "bonafide").is_dir() and (folder / "morph").is_dir():
        return [(folder / "bonafide", BONA_FIDE, ""), (folder / "morph", MORPH, UNNAMED_ATTACK)], None
    if all((folder / name).is_dir() for name in SMDD_FOLDERS):
        return [
            (folder / name, label, "smdd" if label == MORPH else "") for name, label in SMDD_FOLDERS.items()
        ], SMDD_IDENTITY
    morphs = sorted(part for part in folder.glob("morph_*") if part.is_dir())
    if (folder / "raw").is_dir() and morphs:
        attacks = [(part, MORPH, part.name.removeprefix("morph_")) for part in morphs]
        return [(folder / "raw", BONA_FIDE, ""), *attacks], IDIAP_IDENTITY
    raise UserError(
        f"{folder}: holds neither bonafide and morph, nor o25k_bf_t and m15k_t (SMDD), nor raw and morph_* (FRLL-, "
        "FRGC-, FERET-Morphs); arrange it so, or give a CSV file"
    )


def identities_in(text: str, pattern: str | None) -> frozenset[str]:
    """Return the people whom a pattern finds in a text: each match, or its first group, where it has one."""
    if pattern is None:
        return frozenset()
    return identities_of(_compiled(pattern).found_in(text))


def identities_in_path(name: str, pattern: str | None) -> frozenset[str]:
    """Return the people whom a pattern finds in a file's name without its ending, or else in the folders before it."""
    path = PurePosixPath(name)
    return identities_in(path.stem, pattern) or identities_in(path.parent.as_posix(), pattern)


def identities_of(texts: Iterable[str]) -> frozenset[str]:
    """Return the people whom texts name; a text that says that nothing is known names nobody."""
    return frozenset(identity for text in texts if (identity := identity_of(text)) not in BLANKS)


def identity_of(text: str) -> str:
    """Return one spelling for all of a person's: without case, spaces around it, zeros before a number or ".0" behind.

    pandas writes a column of whole numbers with a blank as 41.0 (41,0 with a comma), spreadsheets cut 041 to 41.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    number = re.fullmatch(r"0*(\d+?)([.,]0+)?", plain)
    return number.group(1) if number else plain


def check_identity_pattern(pattern: str | None) -> None:
    """Raise a UserError unless the pattern is a regular expression."""
    _compiled(pattern or "")


@lru_cache
def _compiled(pattern: str) -> Pattern:
    return Pattern(pattern, "identity_pattern")
