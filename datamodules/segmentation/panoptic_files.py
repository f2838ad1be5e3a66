"""COCO's panoptic format: a JSON file of segments and their categories, and PNG files of segment ids."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.file_names import FileFinder
from datamodules.common.pairs import Pair
from datamodules.common.reading import read_color_codes
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.labels import MAX_CLASSES
from eomt.errors import UserError
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.reading import Number, Text, Whole, read_json

NO_SEGMENT = 0
# three colors of 8 bits
NUM_SEGMENT_IDS = 2**24
SegmentId = Annotated[int, Field(ge=0, lt=NUM_SEGMENT_IDS)]
# in a table of segments, where 0 is unknown
FIRST_CLASS = 1


class Category(TypedDict):
    """What is read of a category."""

    id: Whole
    name: str
    isthing: NotRequired[Whole | bool]


class ImageEntry(TypedDict):
    """What is read of an image; Cityscapes' converter writes texts as ids."""

    id: Whole | str
    file_name: Text


class Segment(TypedDict):
    """What is read of a segment."""

    id: SegmentId
    category_id: Whole
    area: Number
    iscrowd: NotRequired[Whole | bool]


class SegmentList(TypedDict):
    """What is read of an annotation, the segments of an image."""

    image_id: Whole | str
    file_name: Text
    segments_info: list[Segment]


class PanopticFile(TypedDict):
    """What is read of a whole file."""

    categories: list[Category]
    images: list[ImageEntry]
    annotations: list[SegmentList]


class CategoryFile(TypedDict):
    """What is read of a file for its categories alone."""

    categories: list[Category]


PANOPTIC, CATEGORIES = TypeAdapter(PanopticFile), TypeAdapter(CategoryFile)
REMEDY = "it is not in COCO's panoptic format, give the official file"


@dataclass(frozen=True)
class PanopticSplit:
    """One split.

    Args:
        source: The JSON file.
        names: Name of each category id, sorted by id; a category's class id is its place in this order.
        pairs: Images and PNG files.
        stuff: Class ids of what is no thing.
        segments: For each pair (N, 2) int64, ids of segments and their class ids, sorted.
        crowds: For each pair the ids of segments that are crowds.
    """

    source: Path
    names: dict[int, str]
    stuff: list[int]
    pairs: list[Pair]
    segments: list[np.ndarray]
    crowds: list[frozenset[int]]


def read_panoptic_categories(source: Path) -> tuple[list[str], list[int]]:
    """Return the names of a JSON file's categories, sorted by id, and the places of those that are stuff.

    Raises:
        UserError: The file is not in COCO's panoptic format.
    """
    categories = read_json(source, CATEGORIES, REMEDY)["categories"]
    return list(_categories(source, categories).values()), _stuff(categories)


def read_panoptic_split(source: Path) -> PanopticSplit:
    """Read `annotations/panoptic_NAME.json`, with PNG files in `annotations/panoptic_NAME`.

    Images are in `NAME`, or, as Datumaro writes them, in `images/NAME` or `images`.

    Raises:
        UserError: The file is not in COCO's panoptic format, or other files are missing.
    """
    content = read_json(source, PANOPTIC, REMEDY)
    names = _categories(source, content["categories"])
    class_of_category = {category: index for index, category in enumerate(names)}
    root, name = source.parent.parent, source.stem
    own, masks = name.removeprefix("panoptic_"), source.parent / name
    places = (root / own, root / "images" / own, root / "images")
    images = next((place for place in places if place.is_dir()), places[0])
    # where others than COCO's own archive put them
    masks = masks if masks.is_dir() else root / name
    find_image, find_mask = FileFinder(images), FileFinder(masks)
    pairs, segments, crowds = [], [], []
    _refuse_doubled(source, "image id", [image["id"] for image in content["images"]])
    _refuse_doubled(source, "annotation of image id", [one["image_id"] for one in content["annotations"]])
    file_of_image = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in sorted(content["annotations"], key=lambda annotation: annotation["file_name"]):
        if annotation["image_id"] not in file_of_image:
            raise UserError(
                f"{source}: {annotation['file_name']}: image_id {annotation['image_id']} is not among the file's "
                "images; give the official file"
            )
        image = file_of_image[annotation["image_id"]]
        _check_segments(source, annotation, class_of_category)
        rows = [(part["id"], class_of_category[part["category_id"]]) for part in annotation["segments_info"]]
        mask = annotation["file_name"]
        # what is missing is told below, with the number of all
        pairs.append(Pair(image, find_image(image) or images / image, find_mask(mask) or masks / mask))
        segments.append(np.array(sorted(rows), dtype=np.int64).reshape(-1, 2))
        crowds.append(frozenset(part["id"] for part in annotation["segments_info"] if part.get("iscrowd")))
    _check_files(source, [pair.image for pair in pairs])
    _check_files(source, [pair.mask for pair in pairs])
    return PanopticSplit(source, names, _stuff(content["categories"]), pairs, segments, crowds)


def read_class_ids(pair: Pair, segments: np.ndarray, source: Path) -> np.ndarray:
    """Return the class ids of a PNG file of segments, (H, W) uint8, 255 where there is no segment.

    Args:
        pair: The files.
        segments: (N, 2) int64, ids of segments and their class ids, sorted.
        source: The JSON file, for messages.

    Raises:
        UserError: The file is damaged, or has a segment that is not in the JSON file.
    """
    return _read_classes(pair, segments, source)[1]


def read_segment_ids(pair: Pair, segments: np.ndarray, source: Path) -> np.ndarray:
    """Return the ids of segments in a PNG file, (H, W) int32, 0 where there is none; see `read_class_ids`."""
    return _read_classes(pair, segments, source)[0]


def _read_classes(pair: Pair, segments: np.ndarray, source: Path) -> tuple[np.ndarray, np.ndarray]:
    # the id of a segment is spread over the colors
    ids = read_color_codes(pair.mask, pair.image)
    # the system gives pages of a table when something is written there, so it costs no more than its few entries
    table = np.zeros(NUM_SEGMENT_IDS, dtype=np.uint16)
    table[NO_SEGMENT] = FIRST_CLASS + IGNORE_INDEX
    table[segments[:, 0]] = FIRST_CLASS + segments[:, 1]
    found = table[ids]
    if not found.all():
        unknown, pixels = np.unique(ids[found == 0], return_counts=True)
        raise UserError(
            f"{pair.mask}: segment {unknown[0]} ({pixels[0]} pixels) is not in {source}; give files of one release"
        )
    return ids, (found - FIRST_CLASS).astype(np.uint8)


def _stuff(categories: Sequence[Category]) -> list[int]:
    """Return the places of stuff among the categories, sorted by id; where none says so, all are things."""
    ordered = sorted(categories, key=lambda category: category["id"])
    return [place for place, category in enumerate(ordered) if not category.get("isthing", True)]


def _categories(source: Path, categories: Sequence[Category]) -> dict[int, str]:
    _refuse_doubled(source, "category id", [category["id"] for category in categories])
    names = {category["id"]: category["name"] for category in categories}
    if not 2 <= len(names) <= MAX_CLASSES or len(set(names.values())) < len(names):
        raise UserError(f"{source}: {len(names)} categories; from 2 to {MAX_CLASSES} of different names are possible")
    return dict(sorted(names.items()))


def _check_segments(source: Path, annotation: SegmentList, class_of_category: dict[int, int]) -> None:
    place = f"{annotation['file_name']}: segment"
    _refuse_doubled(source, place, [part["id"] for part in annotation["segments_info"]])
    for part in annotation["segments_info"]:
        if part["category_id"] not in class_of_category:
            raise UserError(
                f"{source}: {annotation['file_name']}: category {part['category_id']} ({part['area']} pixels) is not "
                "among the file's categories; correct the file"
            )


def _refuse_doubled(source: Path, what: str, ids: Sequence[int | str]) -> None:
    if len(set(ids)) < len(ids):
        doubled = Counter(ids).most_common(1)[0][0]
        raise UserError(f"{source}: {what} {doubled!r} stands there twice; keep one of the two")


def _check_files(source: Path, files: Sequence[ImageFile]) -> None:
    missing = [file for file in files if isinstance(file, Path) and not os.path.isfile(file)]
    if missing:
        raise UserError(
            f"{missing[0]}: no such file, but {source} names it ({len(missing)} of {len(files)} are missing); "
            "add the files"
        )
