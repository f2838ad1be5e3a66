"""What `inspect` says and draws of data with masks, and the advice where another data module reads a folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.pictures.grid import picture_grid
from datamodules.classification.image_folder import ImageFolder
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.datasets import on_top, read_annotated
from datamodules.recognition.formats import recognize
from datamodules.recognition.oddities import annotated_objects, copy_lines, object_lines, rim_lines
from datamodules.segmentation.data_module import SegmentationDataModule
from eomt.errors import UserError
from eomt.pictures.colors import Color, palette
from eomt.pictures.masks import overlay
from eomt.utils.files import write_file
from eomt.utils.images import shown_channels
from eomt.utils.labels import IGNORE_INDEX

log = logging.getLogger("eomt")

# of a split, and objects in a picture before colors repeat
MOST_PICTURES, MOST_COLORS = 4, 24
# those that may read what another one of them does not
SUBJECTS = ("datamodules.segmentation", "datamodules.objects", "datamodules.defects")

# an image, and the number of a color for each pixel: 255 has none
Painted = tuple[str, Tensor, Tensor]


@contextmanager
def advising(data_class: type | None, path: Any) -> Iterator[None]:
    """Name the data module that reads a folder, where the configured one raises a UserError.

    Args:
        data_class: The configured one; None where there is no data.
        path: The folder.
    """
    try:
        yield
    except UserError as error:
        advice = _advice(data_class, path)
        if advice is None:
            raise
        raise UserError(f"{error}; {advice}") from error


def _advice(data_class: type | None, path: Any) -> str | None:
    if data_class is None or path is None or not data_class.__module__.startswith(SUBJECTS):
        return None
    found = recognize(Path(path).expanduser())
    if found is None or found.class_path == f"datamodules.{data_class.__name__}":
        return None
    return f"it looks like {found.name}, which another data module reads: --data {found.class_path} --data.path {path}"


def look_lines(data: Any, folder: Path) -> Iterator[str]:
    """Yield what is recognized in data with masks, and what looks odd; draw some samples of each split.

    Args:
        data: A data module that was set up for a fit; of others than those with masks or folders of classes nothing is
            said.
        folder: Where the pictures are written.
    """
    if isinstance(data, ImageFolder):
        yield from copy_lines({split: data.files_of(split) for split in data.counts})
    if not isinstance(data, ObjectDataModule | SegmentationDataModule):
        return
    found = recognize(data.path)
    if found is not None:
        yield f"Data: {data.path} is recognized as {found.name}, which {found.class_path} reads"
    if isinstance(data, ObjectDataModule):
        yield from _of_objects(data, folder)
    else:
        yield from _of_masks(data, folder)


def _of_objects(data: ObjectDataModule, folder: Path) -> Iterator[str]:
    splits = {split: data.images_of(split) for split in data.counts}
    for split, images in splits.items():
        objects = annotated_objects(images)
        yield from object_lines(split, objects)
        yield _drawn(split, [_painted(image, found) for image, found in _fullest(objects)], [], folder)
    yield from copy_lines({split: [(i.name, i.image) for i in images] for split, images in splits.items()})


def _fullest(found: Sequence[tuple[AnnotatedImage, Objects]]) -> list[tuple[AnnotatedImage, Objects]]:
    """Return the samples to draw: those of the most classes, then of the most objects."""
    return sorted(found, key=lambda pair: (-len(pair[0].classes), -len(pair[1])))[:MOST_PICTURES]


def _painted(image: AnnotatedImage, objects: Objects) -> Painted:
    pixels = shown_channels(read_annotated(image)[0])
    numbers = torch.from_numpy(on_top(objects).astype("int64"))
    return image.name, pixels, torch.where(numbers > 0, (numbers - 1) % MOST_COLORS, IGNORE_INDEX)


def _of_masks(data: SegmentationDataModule, folder: Path) -> Iterator[str]:
    files: dict[str, list[tuple[str, ImageFile]]] = {}
    colors = list(zip(data.class_names, palette(data.num_classes), strict=True))
    for split in data.counts:
        samples = data.masked_dataset(split)
        drawn = [samples[index] for index in range(min(len(samples), MOST_PICTURES))]
        yield _drawn(split, [(one["name"], shown_channels(one["image"]), one["mask"]) for one in drawn], colors, folder)
        files[split] = [(pair.name, pair.image) for pair in samples.pairs]
        # colors have no order, and where a threshold makes the classes, masks are known to be smooth
        if data.class_colors is None and getattr(data, "mask_threshold", None) is None:
            readers = {pair.name: partial(samples.labels, index) for index, pair in enumerate(samples.pairs)}
            yield from rim_lines(split, readers)
    yield from copy_lines(files)


def _drawn(split: str, samples: Sequence[Painted], legend: list[tuple[str, Color]], folder: Path) -> str:
    """Write a picture of samples, image and overlay side by side, and return a line that says where."""
    colors = [color for _, color in legend] or palette(MOST_COLORS)
    rows = [[image, overlay(image, mask, colors)] for _, image, mask in samples]
    picture = picture_grid(rows, ["image", "masks"], [name for name, _, _ in samples], legend)
    file = folder / f"{split}.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda beside: picture.save(beside, format="PNG"))
    return f"Data: {split}: {len(samples)} samples are drawn in {file}"
