"""Images and their masks, found by their names."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.file_names import ends_with, stem_of
from datamodules.common.opening import looks_like_image
from datamodules.common.splits import named_split, split_folders
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, listed
from eomt.utils.images import IMAGE_EXTENSIONS
from eomt.utils.paths import check_text

log = logging.getLogger("eomt")


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the image's name relative to the images folder."""

    name: str
    image: ImageFile
    mask: ImageFile


def check_same_size(pair: Pair, image_size: tuple[int, ...], mask_size: tuple[int, ...]) -> None:
    """Raise a UserError unless an image and its mask have the same (height, width)."""
    if image_size != mask_size:
        raise UserError(
            f"{pair.mask}: mask of {mask_size[0]} x {mask_size[1]} (height x width) for an image of "
            f"{image_size[0]} x {image_size[1]}, {pair.image}; make them the same size"
        )


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Return the sorted names, relative to `folder`, of all files below it that end with one of `suffixes`.

    Spellings count as equal, see `ends_with`; hidden files are left out; linked folders are followed, each place once.

    Raises:
        UserError: A name is no text, see `check_text`.
    """
    names = [name for name in _all_files(folder) if ends_with(name, *suffixes)]
    for name in names:
        check_text(folder / name)
    return names


def _all_files(folder: Path) -> list[str]:
    names = []
    # links may lead back to where they are
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (place := os.path.realpath(parent)) in seen:
            folders[:] = []
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder)
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def find_image_files(folder: Path, endings: tuple[str, ...] = IMAGE_EXTENSIONS) -> list[str]:
    """Return the sorted names, relative to `folder`, of the images below it; tell of those that are left out.

    Args:
        folder: Holds images, and maybe other files.
        endings: How their names may end.

    Raises:
        UserError: A name is no text, see `check_text`.
    """
    names = find_files(folder, endings)
    others = sorted(set(_all_files(folder)) - set(names))
    if left_out := [name for name in others if ends_with(name, *IMAGE_EXTENSIONS) or looks_like_image(folder / name)]:
        log.warning(
            "%s: %d images are left out, for their names do not end with %s: %s",
            *(folder, len(left_out), listed(endings, most=4), listed(left_out, most=3)),
        )
    return names


def find_other_files(folder: Path) -> list[str]:
    """Return the sorted names, relative to `folder`, of the files below it that are no images by name or content."""
    others = [name for name in _all_files(folder) if not ends_with(name, *IMAGE_EXTENSIONS)]
    return [name for name in others if not looks_like_image(folder / name)]


def find_split_folders(path: Path) -> dict[str, tuple[Path, Path]] | None:
    """Find the folders of images and of masks of each split, None where the splits are not folders.

    Either the splits hold `images` and `masks`, or `images` and `masks` (or `annotations`) hold the splits and nothing
    else; these may be called training, validation and so on. A test split inside `images` may lack masks.
    """
    folders = split_folders(path)
    if "train" in folders and (folders["train"].name == "train" or (folders["train"] / "images").is_dir()):
        return {split: (folder / "images", folder / "masks") for split, folder in folders.items()}
    images = split_folders(path / "images")
    if not {"train", "val"} <= set(images) or _others(path / "images"):
        return None
    masks = split_folders(path / "masks")
    masks = masks if "train" in masks else split_folders(path / "annotations")
    return {
        split: (folder, masks.get(split, path / "masks" / folder.name))
        for split, folder in images.items()
        if split != "test" or split in masks
    }


def _others(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are not called like splits."""
    return [part.name for part in folder.iterdir() if part.is_dir() and named_split(part.name) is None]


def find_pairs(
    images_folder: Path, masks_folder: Path, image_suffix: str | None, mask_suffix: str | None
) -> list[Pair]:
    """Pair images with masks.

    Args:
        images_folder: Holds the images, in folders of its own or not.
        masks_folder: Holds the masks, likewise.
        image_suffix: How image names end; None for any common extension.
        mask_suffix: What stands in a mask's name where the image's has its suffix; None for ".png".

    Raises:
        UserError: A folder is missing or empty, or files are left without a partner.
    """
    for folder in (images_folder, masks_folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; put the {folder.name} of the data set there")
    mask_ending = mask_suffix or ".png"
    images = find_image_files(images_folder, (image_suffix,) if image_suffix else IMAGE_EXTENSIONS)
    masks = find_image_files(masks_folder, (mask_ending,))
    if not images:
        wanted = image_suffix or listed(IMAGE_EXTENSIONS)
        raise UserError(f"{images_folder}: no file ends with {wanted}; put images there, or check image_suffix")

    on_disk = {stem_of(mask, mask_ending): mask for mask in masks}
    present, image_of_mask = set(masks), dict[str, str]()
    for image in images:
        stem = stem_of(image, image_suffix or os.path.splitext(image)[1])
        mask = on_disk.get(stem, stem + mask_ending)
        if mask in image_of_mask:
            raise UserError(
                f"{images_folder / image}: shares its mask {mask} with {image_of_mask[mask]}; keep one of the two"
            )
        image_of_mask[mask] = image
    lonely = [image for mask, image in image_of_mask.items() if mask not in present]
    if lonely:
        mask = next(mask for mask, image in image_of_mask.items() if image == lonely[0])
        raise UserError(
            f"{images_folder / lonely[0]}: no mask {masks_folder / mask} ({len(lonely)} of {len(images)} "
            "images have none); add the masks, or set mask_suffix"
        )
    orphans = [mask for mask in masks if mask not in image_of_mask]
    if orphans:
        raise UserError(
            f"{masks_folder / orphans[0]}: no image belongs to it ({len(orphans)} of {len(masks)} masks have "
            "none); remove the masks, or set image_suffix and mask_suffix"
        )
    return [Pair(image, images_folder / image, masks_folder / mask) for mask, image in image_of_mask.items()]
