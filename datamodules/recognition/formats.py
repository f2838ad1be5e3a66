"""The format of a folder with annotated images, told by its files."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datamodules.common.pairs import find_files, find_split_folders
from datamodules.objects.coco_layouts import find_sources
from datamodules.objects.labelme_files import is_labelme
from datamodules.objects.table_files import find_tables
from datamodules.objects.voc_files import find_voc
from datamodules.objects.yolo_files import NAME_LISTS, find_description, read_description
from eomt.errors import UserError
from eomt.utils.reading import read_text

# JSON files that are looked into
LOOKED_AT = 20


class Format(NamedTuple):
    """A format of annotated images.

    Attributes:
        name: As people call it.
        class_path: Of the data module that reads it.
        fits: Tells whether a path is such data, by a look at a few files.
    """

    name: str
    class_path: str
    fits: Callable[[Path], bool]


def _is_panoptic(path: Path) -> bool:
    return any((path / "annotations").glob("panoptic_*.json"))


def _is_cityscapes(path: Path) -> bool:
    return any(path.glob("leftImg8bit*")) and any(path.glob("gt*"))


def _is_yolo(path: Path) -> bool:
    file = find_description(path)
    if file is None:
        return False
    if file.name in NAME_LISTS:
        return (path / "labels").is_dir()
    return bool(read_description(file).get("names"))


def _is_coco(path: Path) -> bool:
    sources = find_sources(path)
    text = read_text(next(iter(sources.values())), "give COCO's JSON")
    return '"images"' in text and '"annotations"' in text


def _is_labelme(path: Path) -> bool:
    return path.is_dir() and any(is_labelme(path / name) for name in find_files(path, (".json",))[:LOOKED_AT])


def _is_severstal(path: Path) -> bool:
    folders = [path, path / "train", path / "train_split"]
    return (path / "train.csv").is_file() or any(
        (folder / "img").is_dir() and (folder / "ann").is_dir() for folder in folders
    )


def _is_masks(path: Path) -> bool:
    return ((path / "images").is_dir() and (path / "masks").is_dir()) or bool(find_split_folders(path))


# those that are told by more of their files go first
FORMATS = (
    Format("COCO panoptic", "datamodules.CocoPanoptic", _is_panoptic),
    Format("Cityscapes", "datamodules.Cityscapes", _is_cityscapes),
    Format("Pascal VOC", "datamodules.PascalVoc", lambda path: find_voc(path) is not None),
    Format("YOLO", "datamodules.YoloSegmentation", _is_yolo),
    Format("COCO instances", "datamodules.CocoInstances", _is_coco),
    Format("Severstal's table, or Supervisely", "datamodules.Severstal", _is_severstal),
    Format("LabelMe", "datamodules.LabelMe", _is_labelme),
    Format("table of Hugging Face", "datamodules.HuggingFaceSegmentation", lambda path: find_tables(path) is not None),
    Format("folders of images and masks", "datamodules.ImageMaskFolder", _is_masks),
)


def recognize(path: Path) -> Format | None:
    """Return the format of a folder or file; None for one that is not known."""
    for found in FORMATS:
        try:
            if found.fits(path):
                return found
        # a file that looked like one of the format is damaged, or one of another
        except (UserError, OSError):
            continue
    return None
