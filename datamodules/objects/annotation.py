"""What is known of an image with objects, whatever format it was read from."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from scipy import ndimage

from datamodules.common.zip_members import ImageFile

# what one object is: as annotated, a connected component of a class, or all that an image shows of a class
Grouping = Literal["instance", "component", "class"]
EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


class CroppedMask(NamedTuple):
    """A mask within the smallest rectangle that holds it: an image of 1,000 cells needs no 1,000 masks of its size.

    Attributes:
        top: First row of the rectangle in the image.
        left: First column.
        pixels: (h, w) bool, of which each outermost row and column holds a pixel.
    """

    top: int
    left: int
    pixels: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the rectangle covers."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True, eq=False)
class Objects:
    """The N objects of an image; they may overlap. `from_masks` and `from_map` make them of what formats hold.

    Attributes:
        size: Height and width of the image, turned as its EXIF orientation says.
        cropped: Masks in turned pixels, none of them empty.
        class_ids: (N,) int64, 0 to C - 1.
        is_crowd: (N,) bool: a region of many objects (COCO's iscrowd).
        stated_areas: (N,) float64: what the annotation says that the areas are, which COCO's evaluation tells small
            objects from large ones by; nan where it says nothing.
    """

    size: tuple[int, int]
    cropped: tuple[CroppedMask, ...]
    class_ids: np.ndarray
    is_crowd: np.ndarray
    stated_areas: np.ndarray

    def __len__(self) -> int:
        return len(self.cropped)

    @property
    def masks(self) -> np.ndarray:
        """The masks at the size of the image, (N, H, W) bool."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for mask, part in zip(masks, self.cropped, strict=True):
            mask[part.window] = part.pixels
        return masks

    @property
    def areas(self) -> np.ndarray:
        """The number of pixels of each object, (N,) int64."""
        return np.array([np.count_nonzero(part.pixels) for part in self.cropped], dtype=np.int64)

    @classmethod
    def from_masks(
        cls,
        size: tuple[int, int],
        masks: Iterable[np.ndarray],
        class_ids: Sequence[int] | np.ndarray,
        is_crowd: Sequence[bool] | np.ndarray | None = None,
    ) -> "Objects":
        """Return objects of masks at the size of the image.

        Args:
            size: Height and width.
            masks: (H, W) bool each, not empty. They are taken one by one: of a generator, one is in memory at a time.
            class_ids: Of the masks.
            is_crowd: Of the masks; None where none is a crowd.
        """
        return cls.from_cropped(size, [crop_mask(mask) for mask in masks], class_ids, is_crowd)

    @classmethod
    def from_map(
        cls, segments: np.ndarray, class_of: Mapping[int, int], crowds: Collection[int] = frozenset()
    ) -> "Objects":
        """Return the objects of a map of segments, in the order of `class_of`; ids that fill no pixel give none.

        Args:
            segments: (H, W) unsigned integers below 2^24, turned; an id that is not in `class_of` is no object.
            class_of: Class id of each segment's id.
            crowds: Ids of the segments that are crowds.
        """
        table = np.zeros(max([*class_of, int(segments.max(initial=0))]) + 1, dtype=np.int32)
        table[list(class_of)] = np.arange(1, len(class_of) + 1)
        numbers = table[segments]
        found = [
            (CroppedMask(rows.start, columns.start, numbers[rows, columns] == number), class_of[segment], segment)
            for number, (segment, window) in enumerate(
                zip(class_of, ndimage.find_objects(numbers, len(class_of)), strict=True), start=1
            )
            if window is not None
            for rows, columns in [window]
        ]
        size = (segments.shape[0], segments.shape[1])
        return cls.from_cropped(
            size, [part for part, _, _ in found], [label for _, label, _ in found], [i in crowds for _, _, i in found]
        )

    @classmethod
    def from_cropped(
        cls,
        size: tuple[int, int],
        cropped: Sequence[CroppedMask],
        class_ids: Sequence[int] | np.ndarray,
        is_crowd: Sequence[bool] | np.ndarray | None = None,
        stated_areas: Sequence[float] | np.ndarray | None = None,
    ) -> "Objects":
        """Return objects of masks that are cropped already; arguments are those of `from_masks`, and the areas."""
        crowds = np.zeros(len(cropped), dtype=bool) if is_crowd is None else np.asarray(is_crowd, dtype=bool)
        areas = np.full(len(cropped), np.nan) if stated_areas is None else np.asarray(stated_areas, dtype=np.float64)
        objects = cls(size, tuple(cropped), np.asarray(class_ids, dtype=np.int64), crowds, areas)
        assert {len(objects)} == {len(objects.class_ids), len(crowds), len(areas)}, "one of each for each mask"
        return objects

    def where(self, kept: np.ndarray) -> "Objects":
        """Return the objects that a mask (N,) bool, or positions (M,), choose."""
        chosen = np.arange(len(self))[kept]
        cropped = [self.cropped[index] for index in chosen]
        return self.from_cropped(
            self.size, cropped, self.class_ids[chosen], self.is_crowd[chosen], self.stated_areas[chosen]
        )


class ObjectAnnotation(Protocol):
    """Knowledge about one image, a small value that travels to worker processes; files are read when it is asked."""

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return the objects of the image.

        Args:
            size: Height and width of the image, turned as its orientation says.
            orientation: EXIF orientation of the image, for annotations that live in the pixels of its file.

        Raises:
            UserError: The annotation is damaged or does not fit the image.
        """


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what is known of it.

    Attributes:
        name: Relative to the images' folder; it traces a score to its file.
        image: Its file.
        classes: Ids of the classes that it shows, without a look at pixels.
        annotation: Where its objects are.
    """

    name: str
    image: ImageFile
    classes: frozenset[int]
    annotation: ObjectAnnotation


def counts_of(class_ids: Sequence[np.ndarray], class_names: Sequence[str]) -> dict[str, int]:
    """Return under each class name how many images show it, and under "objects of <name>" how many objects.

    Args:
        class_ids: Of the objects of each image.
        class_names: By class id.
    """
    counts: dict[str, int] = {}
    for class_id, name in enumerate(class_names):
        numbers = [int((ids == class_id).sum()) for ids in class_ids]
        counts |= {name: sum(number > 0 for number in numbers), f"objects of {name}": sum(numbers)}
    return counts


def crop_mask(mask: np.ndarray) -> CroppedMask:
    """Return a mask (H, W) bool, which must not be empty, within its smallest rectangle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(rows), "an empty mask is no object"
    top, left = int(rows[0]), int(columns[0])
    # a copy, or the whole mask would stay in memory
    return CroppedMask(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())


def group_objects(objects: Objects, how: Grouping) -> Objects:
    """Return the objects that a task is about, by rising class id where they are not those that are annotated.

    Args:
        objects: As annotated.
        how: "instance" leaves them as they are; "component" makes an object of each connected component (8 neighbors)
            of what a class covers, and leaves crowds as they are, which hold many; "class" makes one object of all
            that a class covers, crowds too.
    """
    if how == "instance":
        return objects
    if how == "class":
        return _regrouped(objects, lambda union: [union])
    crowds = objects.where(objects.is_crowd)
    components = _regrouped(objects.where(~objects.is_crowd), _components)
    cropped = [*components.cropped, *crowds.cropped]
    class_ids = np.concatenate([components.class_ids, crowds.class_ids])
    is_crowd = np.concatenate([components.is_crowd, crowds.is_crowd])
    areas = np.concatenate([components.stated_areas, crowds.stated_areas])
    order = np.argsort(class_ids, kind="stable")
    return Objects.from_cropped(objects.size, cropped, class_ids, is_crowd, areas).where(order)


def _regrouped(objects: Objects, parts_of: Callable[[CroppedMask], list[CroppedMask]]) -> Objects:
    """Return what a function makes of the union of each class."""
    cropped, class_ids = list[CroppedMask](), list[int]()
    for class_id in np.unique(objects.class_ids).tolist():
        parts = parts_of(_union(objects.size, objects.where(objects.class_ids == class_id).cropped))
        cropped += parts
        class_ids += [class_id] * len(parts)
    return Objects.from_cropped(objects.size, cropped, class_ids)


def _union(size: tuple[int, int], parts: Sequence[CroppedMask]) -> CroppedMask:
    if len(parts) == 1:
        return parts[0]
    union = np.zeros(size, dtype=bool)
    for part in parts:
        union[part.window] |= part.pixels
    return crop_mask(union)


def _components(union: CroppedMask) -> list[CroppedMask]:
    numbers, _ = ndimage.label(union.pixels, EIGHT_NEIGHBORS)
    return [
        CroppedMask(union.top + rows.start, union.left + columns.start, numbers[rows, columns] == number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1)
    ]
