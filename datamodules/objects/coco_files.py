"""COCO's JSON of objects: images, categories, and annotations with polygons or run lengths.

Lin et al., "Microsoft COCO" (arXiv:1405.0312); the format is that of cocodataset.org.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pycocotools import mask as coco_mask
from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.orientation import stored_size, turned, turned_box
from datamodules.objects.annotation import CroppedMask, Objects
from datamodules.objects.polygons import FEWEST_POINTS, check_polygon, polygon_mask
from datamodules.objects.run_lengths import compress, count_pixels, decode_counts
from eomt.errors import UserError, shortened
from eomt.utils.reading import Count, Text, Whole, read_json

REMEDY = "give COCO's JSON of instances"
BOXES = (
    "boxes alone train nothing here, but they can prompt SAM 2, which outlines what they hold: "
    "eomt.tasks.PromptedSegmentation, predict, --data.prompts FILE"
)
# between the counts of objects, in whose text it does not occur
PART = b" "

# of an image; a forged file may state any number, and masks have as many
MOST_PIXELS = 2**28

Size = tuple[int, int]


def _packed(polygons: list[list[float]]) -> list[np.ndarray]:
    # a list of numbers takes four times as much memory, and the annotations of COCO have 50 million
    return [np.array(polygon, dtype=np.float64) for polygon in polygons]


class RunLengthEntry(TypedDict):
    """Run lengths: counts are a text where they are compressed."""

    size: Annotated[list[Count], Field(min_length=2, max_length=2)]
    counts: str | list[Whole]


Polygons = Annotated[list[list[float]], AfterValidator(_packed)]
ImageId = Whole | str


class CategoryEntry(TypedDict):
    """What is read of a category."""

    id: Whole
    name: Text
    supercategory: NotRequired[Any]


class ImageEntry(TypedDict):
    """What is read of an image."""

    id: ImageId
    file_name: Text
    height: Annotated[int, Field(ge=1, lt=2**20)]
    width: Annotated[int, Field(ge=1, lt=2**20)]


class AnnotationEntry(TypedDict):
    """What is read of an annotation."""

    id: NotRequired[ImageId]
    image_id: ImageId
    category_id: Whole
    segmentation: NotRequired[Polygons | RunLengthEntry | None]
    iscrowd: NotRequired[Whole | bool]
    area: NotRequired[Any]


class UsedCategory(TypedDict):
    """What is read of an annotation to know the classes."""

    category_id: Whole


class ClassesFile(TypedDict):
    """What is read of a file to know the classes."""

    categories: list[CategoryEntry]
    annotations: list[UsedCategory]


class InstancesFile(TypedDict):
    """What is read of a whole file."""

    images: list[ImageEntry]
    categories: list[CategoryEntry]
    annotations: list[AnnotationEntry]


INSTANCES: TypeAdapter[Any] = TypeAdapter(InstancesFile)
CLASSES: TypeAdapter[Any] = TypeAdapter(ClassesFile)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a file and its N objects.

    Attributes:
        source: The JSON file.
        id: The image's id there.
        file_name: As it is written there.
        size: Height and width that stand there.
        counts: Compressed run lengths of the objects, joined by `PART`.
        category_ids: Of the objects.
        crowds: Positions of those that are crowds.
        areas: That stand there for the objects, packed doubles; nan where there is none.
    """

    source: Path
    id: int | str
    file_name: str
    size: Size
    counts: bytes
    category_ids: tuple[int, ...]
    crowds: tuple[int, ...]
    areas: bytes


@dataclass(frozen=True)
class CocoClasses:
    """The classes of a JSON file.

    Attributes:
        source: The file.
        categories: Names by id, sorted by id.
        groups: Names of categories of which others say that they belong to them.
        used: Ids of those that annotations have.
    """

    source: Path
    categories: dict[int, str]
    groups: frozenset[str]
    used: frozenset[int]


@dataclass(frozen=True)
class CocoFile:
    """A JSON file.

    Attributes:
        source: The file.
        categories: Names by id, sorted by id.
        images: In the order of the file.
    """

    source: Path
    categories: dict[int, str]
    images: list[CocoImage]


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """The objects of an image of a COCO file.

    Attributes:
        image: The image.
        class_ids: Of its objects.
    """

    image: CocoImage
    class_ids: tuple[int, ...]

    def turn(self, size: Size, orientation: int) -> int:
        """Return the EXIF orientation of the pixels that the objects live in, 1 where these are turned already.

        Most tools annotate the stored pixels, others show images turned and write the size of what they show.

        Raises:
            UserError: The image has another size.
        """
        if self.image.size == stored_size(size, orientation):
            return orientation
        if self.image.size == size:
            return 1
        stored, stated = stored_size(size, orientation), self.image.size
        raise UserError(
            f"{self.image.source}: image id {self.image.id}: {shortened(self.image.file_name, 80)} has {stored[0]} x "
            f"{stored[1]} pixels (height x width), but {stated[0]} x {stated[1]} are stated; annotate this file"
        )

    def objects(self, size: Size, orientation: int) -> Objects:
        """Return the objects of the image, see `ObjectAnnotation`."""
        turn = self.turn(size, orientation)
        texts = self.image.counts.split(PART) if self.class_ids else []
        found = [decode_counts(text, self.image.size) for text in texts]
        cropped = [part if turn == 1 else _turned(part, size, turn) for part in found if part is not None]
        is_crowd = np.zeros(len(texts), dtype=bool)
        is_crowd[list(self.image.crowds)] = True
        return Objects.from_cropped(size, cropped, self.class_ids, is_crowd, np.frombuffer(self.image.areas).copy())


def read_classes(source: Path) -> CocoClasses:
    """Read the classes alone of a file of COCO's instances, in a tenth of the time and memory of all of it.

    Raises:
        UserError: It is none, or its categories are wrong.
    """
    content = read_json(source, CLASSES, REMEDY)
    groups = frozenset(str(category.get("supercategory")) for category in content["categories"])
    used = frozenset(entry["category_id"] for entry in content["annotations"])
    return CocoClasses(source, _categories(source, content["categories"]), groups, used)


def _categories(source: Path, entries: Sequence[CategoryEntry]) -> dict[int, str]:
    """Return names by id, sorted by id."""
    categories = _by_id(source, "category", entries)
    occurrences = Counter(category["name"] for category in entries)
    for category in entries:
        if occurrences[category["name"]] > 1:
            name = shortened(category["name"])
            raise UserError(
                f"{source}: category id {category['id']}: {name!r} has another id, too; keep one of the two"
            )
    return {key: categories[key]["name"] for key in sorted(categories)}


def read_coco(source: Path) -> CocoFile:
    """Read a file of COCO's instances.

    Raises:
        UserError: It is none, or a part of it is wrong; its id is named.
    """
    content = read_json(source, INSTANCES, REMEDY)
    categories = _categories(source, content["categories"])
    images = _by_id(source, "image", content["images"])
    _refuse_shared_files(source, images.values())
    _by_id(source, "annotation", [entry for entry in content["annotations"] if "id" in entry])
    of_image: dict[int | str, list[AnnotationEntry]] = {image_id: [] for image_id in images}
    for entry in content["annotations"]:
        for field, known in (("image_id", of_image), ("category_id", categories)):
            if entry[field] not in known:
                group = "images" if field == "image_id" else "categories"
                raise UserError(
                    f"{source}: {_place(entry)}: {field} {entry[field]!r} is not among the file's {group}; correct it"
                )
        of_image[entry["image_id"]].append(entry)
    # each image's polygons are gone when it is made
    found = [_image(source, image, of_image.pop(image_id)) for image_id, image in images.items()]
    return CocoFile(source, categories, found)


def _by_id(source: Path, kind: str, entries: Sequence[Any]) -> dict[Any, Any]:
    found = {entry["id"]: entry for entry in entries}
    if len(found) < len(entries):
        doubled = Counter(entry["id"] for entry in entries).most_common(1)[0][0]
        raise UserError(f"{source}: {kind} id {doubled!r} stands there twice; give each {kind} an id of its own")
    return found


def _refuse_shared_files(source: Path, images: Iterable[ImageEntry]) -> None:
    first: dict[str, Any] = {}
    for image in images:
        if image["file_name"] in first:
            name = shortened(image["file_name"], 80)
            raise UserError(
                f"{source}: image id {image['id']!r}: {name} is the file of image id {first[image['file_name']]!r}, "
                "too; put all of a file's annotations under one id"
            )
        first[image["file_name"]] = image["id"]


def _place(entry: AnnotationEntry) -> str:
    return f"annotation id {entry['id']!r}" if "id" in entry else f"an annotation of image id {entry['image_id']!r}"


def _image(source: Path, image: ImageEntry, entries: Sequence[AnnotationEntry]) -> CocoImage:
    size = (image["height"], image["width"])
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{source}: image id {image['id']!r}: {size[0]} x {size[1]} pixels (height x width); at most {MOST_PIXELS} "
            "can be read: cut it into pieces"
        )
    counts = _run_lengths(source, size, entries)
    crowds = tuple(index for index, entry in enumerate(entries) if entry.get("iscrowd"))
    category_ids = tuple(entry["category_id"] for entry in entries)
    areas = np.array([_area(entry.get("area")) for entry in entries], dtype=np.float64).tobytes()
    return CocoImage(source, image["id"], image["file_name"], size, PART.join(counts), category_ids, crowds, areas)


def _area(stated: Any) -> float:
    """Return an area, which COCO's evaluation tells small objects from large ones by; nan for what can be none."""
    is_one = isinstance(stated, int | float) and not isinstance(stated, bool) and 0 <= stated <= MOST_PIXELS
    return float(stated) if is_one else np.nan


def _run_lengths(source: Path, size: Size, entries: Sequence[AnnotationEntry]) -> list[bytes]:
    """Return each annotation's mask as compressed counts, none of them empty."""
    polygons: list[np.ndarray] = []
    found: list[bytes | slice] = []
    for entry in entries:
        shape, place = entry.get("segmentation"), f"{source}: {_place(entry)}"
        if not shape:
            raise UserError(f"{place} has no mask; {BOXES}")
        if isinstance(shape, list):
            # arrays, as `_packed` leaves them
            own: list[Any] = shape
            for polygon in own:
                _check_polygon(polygon, size, place)
            found.append(slice(len(polygons), len(polygons) + len(own)))
            polygons += own
            continue
        stated = tuple(shape["size"])
        if stated != size:
            raise UserError(
                f"{place}: run lengths of {stated[0]} x {stated[1]} (height x width) for an image of {size[0]} x "
                f"{size[1]}; export the annotation again"
            )
        text = shape["counts"].encode() if isinstance(shape["counts"], str) else compress(shape["counts"], size, place)
        if not count_pixels(text, size, place):
            raise UserError(f"{place}: the mask is empty; remove the annotation")
        found.append(text)
    # all at once, which takes half of the time
    filled = coco_mask.frPyObjects(polygons, *size) if polygons else []
    return [part if isinstance(part, bytes) else _united(filled[part], polygons[part], size) for part in found]


def _check_polygon(polygon: np.ndarray, size: Size, place: str) -> None:
    if len(polygon) % 2 or len(polygon) < 2 * FEWEST_POINTS:
        raise UserError(
            f"{place}: a polygon of {len(polygon)} numbers; it needs x and y of {FEWEST_POINTS} points or more, draw "
            "it again or remove it"
        )
    if not np.isfinite(polygon).all():
        value = polygon[~np.isfinite(polygon)][0]
        raise UserError(f"{place}: a polygon has the coordinate {value}; draw it again or remove it")
    check_polygon(polygon.reshape(-1, 2), size, place)


def _united(filled: Sequence[Mapping[str, Any]], polygons: Sequence[np.ndarray], size: Size) -> bytes:
    one = filled[0] if len(filled) == 1 else coco_mask.merge(list(filled))
    if not coco_mask.area(one):
        mask = polygon_mask([polygon.reshape(-1, 2) for polygon in polygons], size, "")
        one = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    text: bytes = one["counts"]
    return text


def _turned(part: CroppedMask, size: Size, orientation: int) -> CroppedMask:
    rows, columns = part.window
    left, top, _, _ = turned_box((columns.start, rows.start, columns.stop, rows.stop), size, orientation)
    return CroppedMask(top, left, turned(part.pixels, orientation))
