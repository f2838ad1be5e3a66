"""What `inspect` says and draws of data with masks, and the advice where another data module reads a folder."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.pictures.grid import SMALLEST_CELL_WIDTH, picture_grid
from callbacks.pictures.objects import CROWD
from datamodules.classification.image_folder import ImageFolder
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.datasets import read_annotated
from datamodules.recognition.formats import recognize
from datamodules.recognition.oddities import annotated_objects, copy_lines, object_lines, rim_lines
from datamodules.segmentation.data_module import SegmentationDataModule
from eomt.errors import UserError
from eomt.pictures.colors import Color, palette
from eomt.pictures.masks import overlay
from eomt.pictures.objects import colors_of, draw_objects
from eomt.utils.files import write_file
from eomt.utils.images import shown_channels

log = logging.getLogger("eomt")

# of a split
MOST_PICTURES = 4
# classes of objects that a legend names; each object has its name in any case
MOST_NAMED = 20
# those that may read what another one of them does not
SUBJECTS = ("datamodules.segmentation", "datamodules.objects", "datamodules.defects")

# the name of an image, the image, and what is annotated painted over it
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
        names = data.object_names
        legend = list(zip(names, palette(len(names)), strict=True)) if 1 < len(names) <= MOST_NAMED else []
        yield _drawn(split, [_painted(image, found, names) for image, found in _fullest(objects)], legend, folder)
    yield from copy_lines({split: [(i.name, i.image) for i in images] for split, images in splits.items()})


def _fullest(found: Sequence[tuple[AnnotatedImage, Objects]]) -> list[tuple[AnnotatedImage, Objects]]:
    """Return the samples to draw: those of the most classes, then of the most objects."""
    return sorted(found, key=lambda pair: (-len(pair[0].classes), -len(pair[1])))[:MOST_PICTURES]


def _painted(image: AnnotatedImage, objects: Objects, names: Sequence[str]) -> Painted:
    pixels = shown_channels(read_annotated(image)[0])
    labels, masks = objects.class_ids.tolist(), torch.from_numpy(objects.masks)
    texts = [
        names[label] + (f" ({CROWD})" if crowd else "") for label, crowd in zip(labels, objects.is_crowd, strict=True)
    ]
    colors = colors_of(labels, len(names))
    return image.name, pixels, draw_objects(pixels, masks, colors, texts, least_width=SMALLEST_CELL_WIDTH)


def _of_masks(data: SegmentationDataModule, folder: Path) -> Iterator[str]:
    files: dict[str, list[tuple[str, ImageFile]]] = {}
    legend = list(zip(data.class_names, palette(data.num_classes), strict=True))
    colors = [color for _, color in legend]
    for split in data.counts:
        samples = data.masked_dataset(split)
        drawn = [samples[index] for index in range(min(len(samples), MOST_PICTURES))]
        shown = [(one["name"], shown_channels(one["image"]), one["mask"]) for one in drawn]
        painted = [(name, image, overlay(image, mask, colors)) for name, image, mask in shown]
        yield _drawn(split, painted, legend, folder)
        files[split] = [(pair.name, pair.image) for pair in samples.pairs]
        # colors have no order, and where a threshold makes the classes, masks are known to be smooth
        if data.class_colors is None and getattr(data, "mask_threshold", None) is None:
            readers = {pair.name: partial(samples.labels, index) for index, pair in enumerate(samples.pairs)}
            yield from rim_lines(split, readers)
    yield from copy_lines(files)


def _drawn(split: str, samples: Sequence[Painted], legend: list[tuple[str, Color]], folder: Path) -> str:
    """Write a picture of samples, image and overlay side by side, and return a line that says where."""
    rows = [[image, painted] for _, image, painted in samples]
    picture = picture_grid(rows, ["image", "masks"], [name for name, _, _ in samples], legend)
    file = folder / f"{split}.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda beside: picture.save(beside, format="PNG"))
    return f"Data: {split}: {len(samples)} samples are drawn in {file}"
