"""Splits that keep copies of an image together and every class in proportion."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.opening import content_of
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError

# stands for the class of an image that shows none
EMPTY = -1


@dataclass(frozen=True)
class Group:
    """Names of images that belong into the same split, and the classes that any of them shows."""

    names: tuple[str, ...]
    classes: frozenset[int]


def size_of(file: ImageFile) -> int:
    """Return the number of bytes of a file."""
    return file.stat().st_size if isinstance(file, Path) else file.size


def content_keys(files: Sequence[ImageFile]) -> list[str]:
    """Return a key for each file, equal where the files' bytes are.

    Only files that share their size with another one are read.
    """
    sizes = [size_of(file) for file in files]
    of_this_size = Counter(sizes)

    def key(position: int) -> str:
        if of_this_size[sizes[position]] == 1:
            return f"size {sizes[position]}"
        file = files[position]
        return hashlib.sha256(content_of(file)).hexdigest()

    return map_in_threads(key, range(len(files)), "Looking for copies of images")


def group_copies(names: Sequence[str], files: Sequence[ImageFile], classes: Sequence[frozenset[int]]) -> list[Group]:
    """Group images whose files have the same bytes.

    Args:
        names: Name of each image.
        files: Its file.
        classes: Its class ids; copies may be annotated differently.
    """
    members: dict[str, list[int]] = {}
    for position, key in enumerate(content_keys(files)):
        members.setdefault(key, []).append(position)
    return [
        Group(tuple(sorted(names[p] for p in positions)), frozenset().union(*(classes[p] for p in positions)))
        for positions in members.values()
    ]


def grouped_split(
    groups: Sequence[Group], val_fraction: float, test_fraction: float, split_seed: int
) -> dict[str, list[str]]:
    """Split groups of images so that each class has its share of images in each split.

    Returns:
        Sorted names under "train", "val" and "test".
    """
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    return placed(groups, fractions, split_seed)


def folds_of(groups: Sequence[Group], num_folds: int, split_seed: int) -> list[list[str]]:
    """Return the names of each of several folds of equal size, with their share of each class."""
    names = [f"fold {number:03d}" for number in range(num_folds)]
    found = placed(groups, dict.fromkeys(names, 1 / num_folds), split_seed)
    return [found[name] for name in names]


def placed(groups: Sequence[Group], fractions: Mapping[str, float], split_seed: int) -> dict[str, list[str]]:
    """Place groups of images into parts so that each class has its share of images in each part.

    Groups are placed one by one, those with the rarest classes first and images without a class last, into the part
    that lacks most images of the group's rarest class (Sechidis et al. 2011, "On the stratification of multi-label
    data"). Among equals the order is that of a hash of seed and name, whatever the input order.

    Args:
        groups: Images that belong together.
        fractions: Share of all images of each part, by its name.
        split_seed: Of the order.

    Returns:
        Sorted names of each part.
    """
    frequency: Counter[int] = Counter()
    for group in groups:
        frequency.update({class_id: len(group.names) for class_id in group.classes or {EMPTY}})
    num_images = sum(len(group.names) for group in groups)
    lacking = {
        split: {class_id: fraction * number for class_id, number in frequency.items()}
        for split, fraction in fractions.items()
    }
    lacking_in_all = {split: fraction * num_images for split, fraction in fractions.items()}

    def rarest(group: Group) -> int:
        return min(group.classes, key=lambda class_id: (frequency[class_id], class_id), default=EMPTY)

    def order(group: Group) -> tuple[bool, int, int, str]:
        class_id = rarest(group)
        digest = hashlib.sha256(f"{split_seed}/{group.names[0]}".encode()).hexdigest()
        return class_id == EMPTY, frequency[class_id], class_id, digest

    record: dict[str, list[str]] = {part: [] for part in fractions}
    possible = [part for part, fraction in fractions.items() if fraction > 0]
    for group in sorted(groups, key=order):
        class_id = rarest(group)
        split = max(possible, key=lambda split: (lacking[split][class_id], lacking_in_all[split]))
        record[split] += group.names
        lacking_in_all[split] -= len(group.names)
        for class_id in group.classes or {EMPTY}:
            lacking[split][class_id] -= len(group.names)
    # of very few images rounding may leave a split none
    for split in possible:
        if record[split]:
            continue
        fullest = max(possible, key=lambda other: len(record[other]))
        placed = set(record[fullest])
        movable = [group for group in groups if placed.issuperset(group.names)]
        if len(movable) > 1:
            last = max(movable, key=order)
            record[split] = list(last.names)
            record[fullest] = [name for name in record[fullest] if name not in last.names]
    return {split: sorted(names) for split, names in record.items()}


def refuse_overlap(files: Mapping[str, Sequence[ImageFile]]) -> None:
    """Check that no image is in two splits.

    Args:
        files: Image files of each split.

    Raises:
        UserError: Two files of different splits have the same bytes; both are named.
    """
    splits_of_size: dict[int, set[str]] = {}
    for split, part in files.items():
        for file in part:
            splits_of_size.setdefault(size_of(file), set()).add(split)
    # a copy has the size of the other: of the rest nothing is read
    placed = [(split, file) for split, part in files.items() for file in part if len(splits_of_size[size_of(file)]) > 1]
    first: dict[str, tuple[str, ImageFile]] = {}
    for (split, file), key in zip(placed, content_keys([file for _, file in placed]), strict=True):
        other_split, other = first.setdefault(key, (split, file))
        if other_split != split:
            raise UserError(
                f"{file}: in {split}, is a copy of {other} in {other_split}; what is measured must not be trained on, "
                "keep one of the two"
            )
