"""The images that `predict` is given: files, folders and patterns, each image once and under a name of its own."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.common.file_names import ends_with
from datamodules.common.pairs import find_image_files, find_other_files
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted, listed
from eomt.utils.images import IMAGE_EXTENSIONS
from eomt.utils.paths import check_text

log = logging.getLogger("eomt")

# what `predict_path` of a data module may be
PredictPath = Path | list[Path] | None


def find_images(given: Path | Sequence[Path], field: str = "predict_path") -> dict[str, Path]:
    """Return the images that files, folders and patterns stand for, by name, in the order in which they are given.

    A file is called by its name, an image of a folder by its path in it, and what a pattern as `photos/**/*.jpg`
    matches by its path in the folder before the first wildcard. Where two images would have one name, all are called by
    their paths in the folder that holds all of them. A folder that a pattern matches stands for its images. How many
    files are no images, and which were given twice, is said.

    Args:
        given: One or several of them.
        field: Its name in messages.

    Raises:
        UserError: One of them stands for no image, or a name is no text, see `check_text`.
    """
    entries = [given] if isinstance(given, Path) else list(given)
    if not entries:
        raise UserError(f"{field}: an empty list; give images, folders or patterns")
    found: list[tuple[str, Path]] = []
    places: set[str] = set()
    twice: list[str] = []
    for entry in entries:
        for name, file in _images_of(entry, field):
            # a linked folder may lead to the same file, while two links in one folder have two names
            place = os.path.join(os.path.realpath(file.parent), file.name)
            if place in places:
                twice.append(str(file))
                continue
            places.add(place)
            found.append((name, file))
    if twice:
        log.info("%s: %s given twice, predicted once: %s", field, counted(len(twice), "image"), listed(twice, most=3))
    if max(Counter(name for name, _ in found).values()) > 1:
        files = [os.path.abspath(file) for _, file in found]
        root = os.path.commonpath([os.path.dirname(file) for file in files])
        return {Path(os.path.relpath(file, root)).as_posix(): Path(file) for file in files}
    return dict(found)


def state_of(file: ImageFile) -> str:
    """Return a text that changes where a file is written anew: its size, and when it was written; "" if it is gone."""
    try:
        found = os.stat(file if isinstance(file, Path) else file.archive)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _images_of(entry: Path, field: str) -> list[tuple[str, Path]]:
    if not os.path.exists(entry) and glob.has_magic(str(entry)):
        return _matches(entry, field)
    if os.path.isfile(entry):
        check_text(entry)
        return [(entry.name, entry)]
    images = list(_in_folder(entry, field))
    if not images:
        raise UserError(f"{field}: {entry} is no image and no folder of images; give one that exists")
    return images


def _in_folder(folder: Path, field: str) -> Iterator[tuple[str, Path]]:
    _say_left_out(folder, find_other_files(folder), field)
    yield from ((name, folder / name) for name in find_image_files(folder))


def _matches(pattern: Path, field: str) -> list[tuple[str, Path]]:
    """Return the images that a pattern matches, each once; folders that it matches stand for their images."""
    matched = sorted(glob.glob(str(pattern), recursive=True))
    if not matched:
        raise UserError(f"{field}: {pattern} matches no file; check the pattern, and put it between quotation marks")
    parts = pattern.parts
    plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:plain])
    files = [Path(match) for match in matched if os.path.isfile(match)]
    for file in files:
        check_text(file)
    images = {file: None for file in files if ends_with(file.name, *IMAGE_EXTENSIONS)}
    others = [file.name for file in files if file not in images]
    for folder in (Path(match) for match in matched if os.path.isdir(match)):
        images |= dict.fromkeys(folder / name for name in find_image_files(folder))
    _say_left_out(pattern, others, field)
    if not images:
        raise UserError(f"{field}: {pattern} matches no image, but {listed(others, most=3)}; check the pattern")
    return [(file.relative_to(root).as_posix(), file) for file in sorted(images)]


def _say_left_out(place: Path, names: Sequence[str], field: str) -> None:
    if names:
        log.info(
            "%s: %s of %s %s no image and left out: %s",
            *(field, counted(len(names), "file"), place, "is" if len(names) == 1 else "are", listed(names, most=3)),
        )
