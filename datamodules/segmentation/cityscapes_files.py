"""Cityscapes on disk: extracted folders, or the zip files as they were fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from datamodules.common.file_names import ends_with, stems_of
from datamodules.common.pairs import Pair, find_files
from datamodules.common.splits import SPLITS
from datamodules.common.zip_members import ImageFile, ZipMember, member_names
from eomt.errors import UserError, listed

LabelKind = Literal["labelIds", "labelTrainIds"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
IMAGE_ENDING = "_leftImg8bit.png"
ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}


@dataclass(frozen=True)
class CityscapesFiles:
    """Files that were found.

    Args:
        images: Files below leftImg8bit, by their relative names, such as "val/ulm/ulm_000000_000019_leftImg8bit.png".
        pairs: Images with annotations of "train", "val" and "test"; names are relative to the split.
        kind: Which annotations were taken.
    """

    images: dict[str, ImageFile]
    pairs: dict[str, list[Pair]]
    kind: LabelKind


def find_cityscapes(path: Path, kind: LabelKind | None) -> CityscapesFiles:
    """Pair the images with their annotations.

    Args:
        path: Folder with leftImg8bit and gtFine, each a folder or its official zip file.
        kind: Which annotations to take; None for labelIds or, if there are none, labelTrainIds.

    Raises:
        UserError: A folder, an archive or a partner is missing.
    """
    if not path.is_dir():
        raise UserError(f"path: {path} is not a folder; give the one with leftImg8bit and gtFine, or their zip files")
    images = {name: file for name, file in _files(path, "leftImg8bit").items() if ends_with(name, IMAGE_ENDING)}
    annotations = _files(path, "gtFine")
    kind = kind or _kind_of(annotations)
    ending = f"_gtFine_{kind}.png"
    masks = {name: file for name, file in annotations.items() if ends_with(name, ending)}
    if not images or not masks:
        root, wanted = ("leftImg8bit", IMAGE_ENDING) if not images else ("gtFine", ending)
        raise UserError(f"{_place(path, root)}: no file ends with {wanted}; give the official files")
    pairs = {split: _pairs(path, split, images, masks, ending) for split in SPLITS}
    return CityscapesFiles(images, pairs, kind)


def _place(path: Path, root: str) -> Path:
    """Return where a tree is: the folder, if there is one, else the archive."""
    return path / root if (path / root).is_dir() else path / ARCHIVES[root]


def _files(path: Path, root: str) -> dict[str, ImageFile]:
    """Return the PNG files below a tree by their names relative to it, sorted."""
    place = _place(path, root)
    if place.is_dir():
        return {name: place / name for name in find_files(place, (".png",))}
    if not place.is_file():
        raise UserError(f"path: {path} holds neither the folder {root} nor {ARCHIVES[root]}; put one of them there")
    names = member_names(place)
    prefix = f"{root}/"
    if not any(name.startswith(prefix) for name in names):
        found = listed(sorted({name.split("/")[0] for name in names}), most=5)
        raise UserError(f"{place}: holds no folder {root} (but {found}); give the official archive {ARCHIVES[root]}")
    return {
        name.removeprefix(prefix): ZipMember(place, name)
        for name in sorted(names)
        if name.startswith(prefix) and ends_with(name, ".png")
    }


def _kind_of(annotations: Mapping[str, ImageFile]) -> LabelKind:
    return next(
        (kind for kind in LABEL_KINDS if any(ends_with(name, f"_gtFine_{kind}.png") for name in annotations)),
        "labelIds",
    )


def _pairs(
    path: Path, split: str, images: Mapping[str, ImageFile], masks: Mapping[str, ImageFile], ending: str
) -> list[Pair]:
    of_split = f"{split}/"
    stems = stems_of((name for name in images if name.startswith(of_split)), IMAGE_ENDING, _place(path, "leftImg8bit"))
    annotated = stems_of((name for name in masks if name.startswith(of_split)), ending, _place(path, "gtFine"))
    # images to be predicted for the benchmark's server may come without the void annotations of test
    if split == "test" and not annotated:
        return []
    for owners, partners, place, wanted in (
        (stems, annotated, _place(path, "gtFine"), f"annotation {{}}{ending}"),
        (annotated, stems, _place(path, "leftImg8bit"), f"image {{}}{IMAGE_ENDING}"),
    ):
        lonely = [stem for stem in owners if stem not in partners]
        if lonely:
            file = (images if owners is stems else masks)[owners[lonely[0]]]
            raise UserError(
                f"{file}: no {wanted.format(lonely[0])} in {place} ({len(lonely)} of {len(owners)} files of {split} "
                "have none); add or remove files"
            )
    return [Pair(name.removeprefix(f"{split}/"), images[name], masks[annotated[stem]]) for stem, name in stems.items()]
