"""Pairs of image and mask files, and their split into train, val and test."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from datamodules.common.file_names import NameTable
from eomt.errors import UserError, listed
from eomt.utils.reading import read_json

log = logging.getLogger("eomt")

SPLITS = ("train", "val", "test")
# how tools call folders, lists and keys of splits: Ultralytics, Roboflow, CVAT, Kaggle, ADE20K; in any case of letters
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# constructor arguments that a seeded split alone looks at
SEEDED = ("val_fraction", "test_fraction", "split_seed")
RECORD = TypeAdapter(dict[Literal["train", "val", "test"], list[str]])


def hash_of(seed: int, name: str) -> str:
    """Return a number, as text, by which names are put into an order that looks random and is repeatable."""
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).hexdigest()


def named_split(name: str) -> str | None:
    """Return the split that a name stands for, such as "val" for Valid; None where it stands for none."""
    return SPLIT_OF_NAME.get(name.lower())


def split_folders(path: Path) -> dict[str, Path]:
    """Return the folders in `path` that are called like splits, by split.

    Raises:
        UserError: Two are of one split.
    """
    found: dict[str, Path] = {}
    for folder in sorted(path.iterdir()) if path.is_dir() else ():
        split = named_split(folder.name)
        if split is None or not folder.is_dir():
            continue
        if split in found:
            raise UserError(
                f"{folder}: is of the {split} split, and so is {found[split].name} beside it; put their files into one"
            )
        found[split] = folder
    return {split: found[split] for split in SPLITS if split in found}


def tell_of_others(path: Path, splits: Iterable[Path]) -> None:
    """Say which folders lie beside those of the splits, and are left out."""
    others = {part for part in path.iterdir() if part.is_dir() and not part.name.startswith(".")} - set(splits)
    if others:
        log.warning("%s: %s beside the splits: left out", path, listed(sorted(part.name for part in others), most=3))


def seeded_split(names: list[str], val_fraction: float, test_fraction: float, split_seed: int) -> dict[str, list[str]]:
    """Split names at random but repeatably: the order is that of a hash of seed and name, whatever the input order.

    A fraction above 0 gives at least one name. Every name lands in exactly one split.
    """
    order = sorted(names, key=lambda name: hash_of(split_seed, name))
    num_val = max(1, round(len(names) * val_fraction)) if val_fraction > 0 else 0
    num_test = max(1, round(len(names) * test_fraction)) if test_fraction > 0 else 0
    return {
        "train": sorted(order[num_val + num_test :]),
        "val": sorted(order[:num_val]),
        "test": sorted(order[num_val : num_val + num_test]),
    }


def read_split_record(file: Path, names: list[str]) -> dict[str, list[str]]:
    """Read a split written earlier as JSON, `{"train": [...], "val": [...], "test": [...]}`.

    Raises:
        UserError: The file is no such record, names an image twice, or one that is not in `names`.
    """
    stored = read_json(file, RECORD, "give the splits.json of an earlier run")
    find, on_disk = NameTable(names), set(names)
    missing = [name for part in stored.values() for name in part if find(name) is None]
    record: dict[str, list[str]] = {split: [find(name) or name for name in part] for split, part in stored.items()}
    recorded = [name for part in record.values() for name in part]
    if missing:
        raise UserError(
            f"{file}: {missing[0]} is not on disk ({len(missing)} of {len(recorded)} names are not); "
            "restore the images, or give another copy of the data"
        )
    if len(set(recorded)) < len(recorded):
        doubled = Counter(recorded).most_common(1)[0][0]
        raise UserError(f"{file}: {doubled} stands there twice; each image belongs to one split")
    if unknown := sorted(on_disk - set(recorded)):
        # in no split they can neither be trained on nor measured: the recorded figures stay what they are
        log.warning("%s: %d images on disk are in no split and left out (%s, ...)", file, len(unknown), unknown[0])
    return {split: record.get(split, []) for split in SPLITS}


SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (), None: SPLITS}
