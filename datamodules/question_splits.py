"""Splits of questions by their images: no image is on two sides."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.grouped_splits import content_keys
from datamodules.splits import seeded_split


def split_images(
    files: Mapping[str, Path], val_fraction: float, test_fraction: float, split_seed: int
) -> dict[str, list[str]]:
    """Split images by a seed; copies of an image stay together.

    Args:
        files: Image files by name.
        val_fraction: Share of "val", in different images.
        test_fraction: Share of "test".
        split_seed: Seed of the split.

    Returns:
        Sorted names under "train", "val" and "test".
    """
    names = sorted(files)
    copies: dict[str, list[str]] = {}
    for name, key in zip(names, content_keys([files[name] for name in names]), strict=True):
        copies.setdefault(key, []).append(name)
    of_first = {group[0]: group for group in copies.values()}
    record = seeded_split(list(of_first), val_fraction, test_fraction, split_seed)
    return {split: sorted(name for first in firsts for name in of_first[first]) for split, firsts in record.items()}


def find_leaks(training: Sequence[Path], measured: Sequence[Path], same_content: bool) -> dict[Path, Path]:
    """Return the training images that are measured on too, each with the file that it is met again in.

    Args:
        training: Images of the training split, any number of times.
        measured: Images of another split.
        same_content: Whether files with the same bytes are the same image; else only one and the same file is.
    """
    training, measured = sorted(set(training)), sorted(set(measured))
    files = [*training, *measured]
    keys = content_keys(files) if same_content else [str(file.resolve()) for file in files]
    others = dict(zip(keys[len(training) :], measured, strict=True))
    return {file: others[key] for file, key in zip(training, keys, strict=False) if key in others}
