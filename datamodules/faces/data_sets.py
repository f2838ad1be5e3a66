"""Whole data sets of faces with labels, in folders or CSV files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.common.splits import SPLITS
from datamodules.faces.boxes import with_boxes
from datamodules.faces.folders import Face, find_labeled_faces
from datamodules.faces.table import read_face_table
from eomt.errors import UserError
from eomt.utils.paths import expand


def read_data_set(
    path: Path, dataset: str, identity_pattern: str | None, face_boxes: Sequence[str] | None
) -> list[Face]:
    """Return the faces of a folder or of a CSV file.

    Args:
        path: Folder in one of the layouts of `find_labeled_faces`, or CSV file.
        dataset: Its name.
        identity_pattern: Regular expression that finds people in file names.
        face_boxes: Names of box files in the folder; None for whole images.

    Raises:
        UserError: There is no such data set, something in it is wrong, or an image is listed twice.
    """
    if path.suffix.lower() == ".csv":
        faces, folder = read_face_table(path, identity_pattern), path.parent
    else:
        faces, folder = find_labeled_faces(path, identity_pattern), path
    if doubled := [name for name, count in Counter(face.name for face in faces).items() if count > 1]:
        raise UserError(f"{path}: {doubled[0]} is listed twice; each image belongs to one class and split")
    if face_boxes is not None:
        faces = with_boxes(faces, folder, face_boxes)
    return [replace(face, dataset=dataset) for face in faces]


def name_test_sets(test_paths: Mapping[str, Path] | Sequence[Path] | None, path: Path) -> dict[str, Path]:
    """Return test sets by name; in a list, folders and files name themselves.

    Args:
        test_paths: The sets.
        path: The data set that is trained on, whose name no test set may have.

    Raises:
        UserError: Two sets have one name, or one is called like a split.
    """
    if isinstance(test_paths, Mapping):
        pairs = [(name, expand(given)) for name, given in test_paths.items()]
    else:
        pairs = [(expand(given).stem, expand(given)) for given in test_paths or []]
    names = Counter([path.stem, *SPLITS, *(name for name, _ in pairs)])
    for name, given in pairs:
        if names[name] > 1:
            raise UserError(
                f"test_paths: {given} is called {name!r}, as is another part; name sets as in frll: {given}"
            )
    return dict(pairs)
