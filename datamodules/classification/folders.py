"""Folders of classes: `<class>/...`, alone or below `train`, `val` and `test`."""

import logging
from pathlib import Path

from datamodules.classification.labels import LabeledImage, LabeledSet
from datamodules.common.pairs import find_image_files, find_other_files
from datamodules.common.splits import split_folders, tell_of_others
from eomt.errors import UserError, counted, listed
from eomt.utils.images import IMAGE_EXTENSIONS
from eomt.utils.paths import check_text

log = logging.getLogger("eomt")


def read_class_folders(folder: Path) -> LabeledSet:
    """Find the images of a folder of classes; what lies deeper in a class's folder belongs to it.

    Where there is a folder called like a split, such as `train`, those hold the classes: see `split_folders`.

    Raises:
        UserError: The folder has no such layout, or a class no image.
    """
    if not folder.is_dir():
        raise UserError(f"path: {folder} is neither a folder nor a CSV file; give the folder of the classes' folders")
    parts = split_folders(folder)
    if not parts:
        images = _of_classes(folder, folder, "")
    else:
        for split in ("train", "val"):
            if split not in parts:
                raise UserError(
                    f"{folder / split}: no such folder; add one beside {next(iter(parts.values())).name}, or let a "
                    "seed split images: give a folder that holds the classes themselves"
                )
        tell_of_others(folder, parts.values())
        images = [image for split, part in parts.items() for image in _of_classes(part, folder, split)]
    names = sorted({image.labels[0] for image in images})
    if len(names) < 2:
        raise UserError(f"{folder}: images of {len(names)} class ({listed(names)}); give a folder for each of several")
    return LabeledSet(images, names, multi_label=False)


def _of_classes(part: Path, root: Path, split: str) -> list[LabeledImage]:
    """Return the images of the classes' folders in `part`, named relative to `root`."""
    classes = _folders(part)
    if not classes:
        raise UserError(f"{part}: holds no folder of a class; put the images of each class into one of its name")
    loose = [name for name in find_image_files(part) if "/" not in name]
    if loose:
        log.warning(
            "%s: %s beside the classes' folders %s no class and %s left out: %s",
            *(part, counted(len(loose), "image"), "have" if len(loose) > 1 else "has"),
            *("are" if len(loose) > 1 else "is", listed(loose, most=3)),
        )
    if others := find_other_files(part):
        log.info("%s: %s no images, left out: %s", part, counted(len(others), "file"), listed(others, most=3))
    images = []
    for folder in classes:
        check_text(folder)
        names = find_image_files(folder)
        if not names:
            raise UserError(f"{folder}: no image ({listed(IMAGE_EXTENSIONS)}); put some there, or remove the folder")
        name_in_set = folder.relative_to(root).as_posix()
        images += [LabeledImage(f"{name_in_set}/{name}", folder / name, (folder.name,), split) for name in names]
    return images


def _folders(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))
