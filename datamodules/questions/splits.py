"""Splits of questions by their images: no image is on two sides."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.common.grouped_splits import content_keys
from datamodules.common.splits import seeded_split
from datamodules.questions.rows import QuestionTable

log = logging.getLogger("eomt")


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


def leak_message(training: Path, measured: Path | str, leaks: Mapping[Path, Path], remedy: str) -> str:
    """Return what is wrong where training images are in another split too."""
    image, other = next(iter(leaks.items()))
    return (
        f"{training}: {len(leaks)} images are in {measured} too ({image} is {other}, ...): what is measured must not "
        f"be trained on; {remedy}"
    )


def warn_of_shared_images(validation: Sequence[Path], test: Sequence[Path], same_content: bool) -> None:
    """Say where validation and test share images: a checkpoint that was chosen on these is measured on them again."""
    if shared := find_leaks(validation, test, same_content):
        image, other = next(iter(shared.items()))
        log.warning(
            "%d of %d validation images are in test too (%s is %s, ...): figures of test are too high where validation "
            "chose the checkpoint",
            *(len(shared), len(set(validation)), image, other),
        )


def images_of(table: QuestionTable) -> list[Path]:
    """Return the image of each row."""
    return [row.image for row in table.rows]
