"""Images with labels, and what is wrong with sets of them."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.grouped_splits import content_keys
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, listed

log = logging.getLogger("eomt")


@dataclass(frozen=True)
class LabeledImage:
    """An image and its classes.

    Args:
        name: Its path relative to the data set's folder; as it is listed, where a CSV lists it.
        file: The file.
        labels: Names of its classes: one, or any number where images have several.
        split: "train", "val" or "test" where the data set says so; else "".
    """

    name: str
    file: ImageFile
    labels: tuple[str, ...]
    split: str = ""


@dataclass(frozen=True)
class LabeledSet:
    """What a folder or a table says.

    Args:
        images: The images.
        class_names: Names of all classes.
        multi_label: Whether an image may have any number of them.
    """

    images: list[LabeledImage]
    class_names: list[str]
    multi_label: bool


def ordered_classes(found: Sequence[str], given: Sequence[str] | None, path: Path) -> list[str]:
    """Return the names of classes in the order of their ids.

    Args:
        found: Those of the data, sorted.
        given: `class_names`, where they were given.
        path: Of the data, for messages.

    Raises:
        UserError: The data have others than were given, or fewer than two.
    """
    if given is not None:
        if unknown := sorted(set(found) - set(given)):
            raise UserError(f"{path}: class {unknown[0]!r} is not in class_names; add it there, or take its images out")
        if missing := [name for name in given if name not in found]:
            raise UserError(f"class_names: {missing[0]!r}: {path} has no image of it; it has {listed(found, most=4)}")
        return list(given)
    return list(found)


def check_classes(splits: Mapping[str, Sequence[LabeledImage]], class_names: Sequence[str], path: Path) -> None:
    """Check that every class can be learned, and say which ones are not measured.

    Raises:
        UserError: No training image shows a class.
    """
    shown = {split: Counter(label for image in images for label in image.labels) for split, images in splits.items()}
    for name in class_names:
        if not shown["train"][name]:
            places = [split for split in ("val", "test") if shown[split][name]]
            raise UserError(
                f"{path}: no training image of class {name!r} ({shown[places[0]][name] if places else 0} in "
                f"{' and '.join(places) or 'any split'}), so it cannot be learned; add some, or take the class out"
            )
    for split in ("val", "test"):
        absent = [name for name in class_names if not shown[split][name]]
        if splits[split] and absent:
            log.warning(
                "%s: no %s image of %s: the figures of %s do not tell how well these are told",
                *(path, split, listed(map(repr, absent), most=4), split),
            )


def refuse_contradictions(images: Sequence[LabeledImage]) -> None:
    """Check that no image has two answers.

    Raises:
        UserError: Two files with the same bytes have different classes; both are named.
    """
    first: dict[str, LabeledImage] = {}
    for image, key in zip(images, content_keys([image.file for image in images]), strict=True):
        other = first.setdefault(key, image)
        if set(other.labels) != set(image.labels):
            raise UserError(
                f"{image.file}: is a copy of {other.file}, and of another class ({listed(image.labels)} and "
                f"{listed(other.labels)}); keep one of the two"
            )


def interleaved(images: Sequence[LabeledImage]) -> list[LabeledImage]:
    """Return images in an order whose every part has the classes as the whole has them.

    So an evaluation that is limited to some batches sees all of them.
    """
    groups: dict[tuple[str, ...], list[LabeledImage]] = {}
    for image in images:
        groups.setdefault(image.labels, []).append(image)
    placed = [
        ((place + 0.5) / len(group), number, image)
        for number, group in enumerate(groups.values())
        for place, image in enumerate(group)
    ]
    return [image for *_, image in sorted(placed, key=lambda item: item[:2])]
