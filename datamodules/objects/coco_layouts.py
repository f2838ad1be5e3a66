"""Where tools lay COCO's JSON of objects and its images."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.common.file_names import FileFinder
from datamodules.common.pairs import find_image_files
from datamodules.common.splits import SPLIT_NAMES, SPLITS, named_split
from datamodules.objects.coco_files import CocoFile, CocoImage
from datamodules.objects.splits import UNSPLIT
from eomt.errors import UserError, counted, listed, shortened

log = logging.getLogger("eomt")

# of COCO's own archive: files that hold something else
OTHER_KINDS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
# what Label Studio puts before the names of uploaded files
UPLOAD_MARK = re.compile(r"^[0-9a-f]{8}-(?=.)")
# so many images tell where all are
LOOKED_AT = 50


def find_sources(path: Path) -> dict[str, Path]:
    """Return the JSON file of each split, or that of "all", as COCO, Roboflow, CVAT and Label Studio lay them.

    Looked for are JSON files in the folders of the splits, beside the images (Roboflow); in `annotations` (COCO, CVAT);
    and in the folder itself (Label Studio). What a file's name says of its split counts; a single file is split by a
    seed, whatever it is called.

    Raises:
        UserError: `path` is no folder, or holds no such files, or not those of a training and a validation split.
    """
    if not path.is_dir():
        raise UserError(f"path: {path} is not a folder; give the one with annotations and images")
    folders = {
        folder: split
        for folder in sorted(entry for entry in path.iterdir() if entry.is_dir())
        if (split := named_split(folder.name))
    }
    found: list[tuple[str | None, Path]] = [
        (split, file) for folder, split in folders.items() for file in _json_files(folder)
    ]
    for folder in (path / "annotations", path):
        found = found or [(split_of(file), file) for file in _json_files(folder)]
    if not found:
        raise UserError(
            f"path: {path} holds no JSON file, nor do its folders annotations, train, val (valid) and test; put COCO's "
            "there, or name it: --data.annotations FILE"
        )
    if len(found) == 1:
        return {UNSPLIT: found[0][1]}
    sources: dict[str, Path] = {}
    for split, file in found:
        if split is None or split in sources:
            reason = "names no split" if split is None else f"is of the {split} split, and so is {sources[split]}"
            raise UserError(
                f"{file}: {reason}; leave one file for each of train, val and test, or name them: --data.annotations"
            )
        sources[split] = file
    if missing := [split for split in ("train", "val") if split not in sources]:
        raise UserError(
            f"path: {path} has {listed(map(str, sources.values()))}, and none of the {missing[0]} split; add it, or "
            "let a seed split one file: --data.annotations FILE"
        )
    return {split: sources[split] for split in SPLITS if split in sources}


def split_of(file: Path) -> str | None:
    """Return the split that a file's name says, such as "train" of instances_train2017.json; None if it says none."""
    words = re.findall("[a-z]+", file.stem.lower())
    return next((split for word in words if (split := named_split(word))), None)


def _json_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json")) if folder.is_dir() else []
    found = [file for file in found if not file.name.startswith((".", *OTHER_KINDS))]
    # beside others, those that are called as COCO calls them
    return [file for file in found if re.match("instances|_annotations", file.name)] or found


class ImageFinder:
    """Finds the images of a file by the names that stand there.

    A name may begin with folders that are not there, have a Windows program's backslashes, or the mark that Label
    Studio puts before uploads.

    Args:
        file: The file of annotations.
        path: Folder of the data set.
        images: Folder of the images; None looks where tools put them.

    Attributes:
        root: The folder where the images are.

    Raises:
        UserError: The folder does not exist.
    """

    def __init__(self, file: CocoFile, path: Path, images: Path | None) -> None:
        if images is not None and not images.is_dir():
            raise UserError(f"images: {images} is not a folder; give the one with the images")
        names = [image.file_name for image in file.images]
        step = max(1, len(names) // LOOKED_AT)
        finders = [FileFinder(root) for root in ([images] if images else _possible_roots(file.source, path))]
        looked_at = names[::step]
        # of several the first
        self._find = max(finders, key=lambda find: sum(_found(find, name) is not None for name in looked_at))
        self.root = self._find.folder

    def __call__(self, image: CocoImage) -> str | None:
        """Return the name of an image's file relative to `root`; None if it is not there."""
        return _found(self._find, image.file_name)


def _possible_roots(source: Path, path: Path) -> list[Path]:
    """Return the folders where images may be, each once, those of a split before those of all."""
    subset = re.sub("^instances_|^_annotations|[.]coco$", "", source.stem)
    split = split_of(source)
    names = [subset, *(SPLIT_NAMES[split] if split else ())]
    roots = [source.parent, source.parent / "images"]
    for base in (path, source.parent.parent):
        roots += [folder / name for name in names if name for folder in (base, base / "images")]
        roots += [base / "images", base]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _found(find: FileFinder, name: str) -> str | None:
    for spelling in _spellings(name):
        if (file := find(spelling)) is not None:
            return file.relative_to(find.folder).as_posix()
    return None


def _spellings(name: str) -> Iterator[str]:
    name = name.replace("\\", "/")
    last = name.rsplit("/", 1)[-1]
    if not name.startswith("/") and ".." not in name.split("/") and ":" not in name:
        yield name
    # of an address the last part, and not what signs it
    for spelling in dict.fromkeys((last, last.partition("?")[0])):
        yield spelling
        yield UPLOAD_MARK.sub("", spelling)


class Located(NamedTuple):
    """Images of a file of annotations."""

    source: Path  # the file
    root: Path  # their folder
    names: list[str]  # relative to it, in the order of the file


def locate(file: CocoFile, path: Path, images: Path | None) -> Located:
    """Return where the images of a file of annotations are.

    Args:
        file: The file.
        path: Folder of the data set.
        images: Folder of the images; None looks where tools put them.

    Raises:
        UserError: An image is missing, or two entries are of one file.
    """
    finder = ImageFinder(file, path, images)
    names = [finder(image) for image in file.images]
    _refuse_missing(file, finder.root, names)
    _refuse_doubled(file, [name or "" for name in names])
    return Located(file.source, finder.root, [name for name in names if name is not None])


def tell_of_unnamed(located: Sequence[Located]) -> None:
    """Say which images no file of annotations names.

    Args:
        located: Of all files.
    """
    named: dict[Path, set[str]] = {}
    for found in located:
        named.setdefault(found.root, set()).update(found.names)
    for root, known in named.items():
        # the folders of other splits may lie in that of one
        elsewhere = tuple(f"{other.relative_to(root).as_posix()}/" for other in named if root in other.parents)
        unknown = [name for name in find_image_files(root) if name not in known and not name.startswith(elsewhere)]
        if unknown:
            sources = listed((str(found.source) for found in located), most=3)
            log.warning(
                "%s: %s left out, for %s not in %s: %s",
                *(root, counted(len(unknown), "image"), "it is" if len(unknown) == 1 else "they are", sources),
                listed(unknown, most=3),
            )


def _refuse_missing(file: CocoFile, root: Path, names: Sequence[str | None]) -> None:
    missing = [image for image, name in zip(file.images, names, strict=True) if name is None]
    if missing:
        raise UserError(
            f"{file.source}: image id {missing[0].id!r}: {shortened(missing[0].file_name, 80)} is not in {root} "
            f"({len(missing)} of {len(names)} images are not); add the files, or name their folder: --data.images"
        )


def _refuse_doubled(file: CocoFile, names: Sequence[str]) -> None:
    first: dict[str, CocoImage] = {}
    for image, name in zip(file.images, names, strict=True):
        other = first.setdefault(os.path.normpath(name), image)
        if other is not image:
            raise UserError(
                f"{file.source}: image id {image.id!r}: {shortened(image.file_name, 80)} is the file of image id "
                f"{other.id!r}, too; put all of a file's annotations under one id"
            )
