"""CSV files that list faces."""

import itertools
from pathlib import Path

from datamodules.common.file_names import FileFinder
from datamodules.common.splits import SPLITS
from datamodules.common.tables import read_table
from datamodules.faces.folders import BONA_FIDE, MORPH, UNNAMED_ATTACK, Face, identities_in_path, identities_of
from eomt.errors import UserError, listed, shortened

LABELS = {"bonafide": BONA_FIDE, "0": BONA_FIDE, "morph": MORPH, "attack": MORPH, "1": MORPH}
PATH_COLUMNS = ("path", "image_path")


def read_face_table(file: Path, identity_pattern: str | None) -> list[Face]:
    """Read a CSV with the columns `path` (or `image_path`) and `label`; other columns may be absent or empty.

    `label` is bonafide or 0, morph, attack or 1. `attack` names how a morph was made, `subject_a` and `subject_b` the
    people in it, `split` is train, val or test. Paths are relative to the CSV's folder, or absolute.

    Args:
        file: The CSV.
        identity_pattern: Finds identities in file names of rows without subjects.

    Raises:
        UserError: The file cannot be read, columns are missing, or a row is wrong; it is named, the header is row 1.
    """
    columns, lines = read_table(file)
    rows = [
        (number, dict(itertools.zip_longest(columns, cells[: len(columns)], fillvalue=""))) for number, cells in lines
    ]
    find = FileFinder(file.parent)
    path_column = next((column for column in PATH_COLUMNS if column in columns), None)
    if path_column is None or "label" not in columns:
        raise UserError(f"{file}: columns {listed(columns)}; must have path and label")
    if not rows:
        raise UserError(f"{file}: no row below the header; list the images there")
    faces = [_face(file, number, row, row[path_column], identity_pattern, find) for number, row in rows]
    without = [number for (number, _), face in zip(rows, faces, strict=True) if not face.split]
    if 0 < len(without) < len(faces):
        raise UserError(f"{file}: row {without[0]}: no split, where other rows have one; give all rows one, or none")
    return faces


def _face(
    file: Path, number: int, row: dict[str, str], name: str, identity_pattern: str | None, find: FileFinder
) -> Face:
    label = LABELS.get(row["label"].lower())
    if label is None:
        raise UserError(
            f"{file}: row {number}: label {shortened(row['label'])!r}; must be bonafide or morph (or 0, 1: 1 = morph)"
        )
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise UserError(f"{file}: row {number}: split {shortened(split)!r}; must be {', '.join(SPLITS)}")
    image = find(name)
    if image is None:
        raise UserError(f"{file}: row {number}: no image {file.parent / name}; restore it, or take the row out")
    attack = row.get("attack", "")
    subjects = identities_of(row.get(key, "") for key in ("subject_a", "subject_b"))
    if label == BONA_FIDE and attack.lower() not in ("", "bonafide", "none"):
        raise UserError(
            f"{file}: row {number}: attack {shortened(attack)!r} of a bona fide image; "
            "leave it empty, or mend the label"
        )
    if label == BONA_FIDE and len(subjects) > 1:
        raise UserError(
            f"{file}: row {number}: two subjects of a bona fide image; leave subject_b empty, or mend the label"
        )
    # folders above the data set say nothing of people
    inner = image.name if Path(name).is_absolute() else Path(name).as_posix()
    identities = subjects or identities_in_path(inner, identity_pattern)
    return Face(Path(name).as_posix(), image, label, (attack or UNNAMED_ATTACK) if label else "", identities, split)
