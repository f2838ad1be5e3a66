"""Splits of annotated images."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datamodules.common.grouped_splits import Group, group_copies, grouped_split
from datamodules.common.splits import SPLITS, read_split_record
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage
from eomt.errors import UserError

# key of images that a seed splits
UNSPLIT = "all"


def refuse_half_splits(found: Collection[str], path: Path) -> None:
    """Raise a UserError for data whose splits are not both of training and of validation.

    Args:
        found: Names of the splits that the data's files say.
        path: Of the data.
    """
    if missing := [split for split in ("train", "val") if split not in found]:
        raise UserError(
            f"{path}: has images of {' and '.join(found)}, and none of {missing[0]}; add some, or take all but one "
            "out, which a seed then splits"
        )


def without_lone_split(found: dict[str, list[AnnotatedImage]]) -> dict[str, list[AnnotatedImage]]:
    """Return the images of splits as they are, or, where there is one split alone, for a seed to split."""
    return found if len(found) != 1 else {UNSPLIT: next(iter(found.values()))}


def split_images(
    images: Sequence[AnnotatedImage], val_fraction: float, test_fraction: float, split_seed: int, splits: Path | None
) -> dict[str, list[AnnotatedImage]]:
    """Return the images of "train", "val" and "test".

    Args:
        images: All of them, of different names.
        val_fraction: Share of validation.
        test_fraction: Share of test.
        split_seed: Of the split, in which copies of an image stay together, and classes keep their share.
        splits: JSON file of an earlier split to be used again; None makes a new one.

    Raises:
        UserError: The earlier split does not fit the images.
    """
    found = {image.name: image for image in images}
    if splits is None:
        record = grouped_split(groups_of(images), val_fraction, test_fraction, split_seed)
    else:
        record = read_split_record(splits, list(found))
    return {split: [found[name] for name in record[split]] for split in SPLITS}


def given_images(
    found: Mapping[str, list[AnnotatedImage]], path: Path, splits: Path | None
) -> dict[str, list[AnnotatedImage]]:
    """Return the images of "train", "val" and "test" that the data's files say.

    Raises:
        UserError: Only one of train and val is said, or an earlier split is to be used.
    """
    refuse_half_splits(found, path)
    if splits is not None:
        raise UserError(f"splits: {path} is split by its files; leave splits out")
    return {split: found.get(split, []) for split in SPLITS}


def groups_of(images: Sequence[AnnotatedImage]) -> list[Group]:
    """Return copies of an image together, with the classes that they show."""
    return group_copies(
        [image.name for image in images], [image.image for image in images], [image.classes for image in images]
    )


def files_of(splits: Mapping[str, Sequence[AnnotatedImage]]) -> dict[str, ImageFile]:
    """Return the files of all images by name; where two splits have one, the names begin with that of the split."""
    named = [(split, image) for split, images in splits.items() for image in images]
    are_unique = len({image.name for _, image in named}) == len(named)
    return {image.name if are_unique else f"{split}/{image.name}": image.image for split, image in named}
