"""Pascal VOC's folders: images, PNG files of classes and of objects, and lists of names for the splits.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2010); CVAT and others write the same folders with
a `labelmap.txt` of their own classes.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.file_names import stem_of
from datamodules.common.label_arrays import count_labels
from datamodules.common.mask_labels import Color
from datamodules.common.pairs import Pair, check_same_size, find_image_files
from datamodules.common.reading import read_color_codes, read_header, read_mask
from datamodules.common.splits import SPLITS, named_split
from datamodules.common.threads import map_in_threads
from datamodules.objects.annotation import AnnotatedImage, Objects
from eomt.errors import UserError, counted, listed, shortened
from eomt.utils.reading import read_text

log = logging.getLogger("eomt")

IMAGES, CLASS_MASKS, OBJECT_MASKS, LISTS = "JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets"
# where archives put the folders
INSIDE = (".", "VOC2012", "VOCdevkit/VOC2012", "VOC2007", "VOCdevkit/VOC2007")
LABEL_MAP = "labelmap.txt"
PASCAL_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BACKGROUND, VOID = 0, 255
VOID_COLOR: Color = (224, 224, 192)
# codes of colors, see `read_color_codes`: black; Pascal's void, and white, which is 255 in gray files
NO_OBJECT = 0
VOID_CODES = (224 + (224 << 8) + (192 << 16), 255 + (255 << 8) + (255 << 16))


def voc_color(index: int) -> Color:
    """Return the color of a place in Pascal's palette: its bits are spread over red, green and blue, high ones first.

    Args:
        index: 0 to 255.
    """
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= ((index >> channel) & 1) << (7 - place)
        index >>= 3
    return color[0], color[1], color[2]


@dataclass(frozen=True)
class VocMasks:
    """The files of an image.

    Attributes:
        pair: The image, and the mask of its classes.
        objects_mask: The mask of its objects; None where there is none, and each class is one object.
        colors: Of the background and the classes; the void color is not among them.
        has_label_map: Whether the colors are stated, and count where a mask has a palette.
    """

    pair: Pair
    objects_mask: Path | None
    colors: tuple[Color, ...]
    has_label_map: bool

    def objects(self, size: tuple[int, int], orientation: int) -> Objects:
        """Return the objects, see `ObjectAnnotation`; pixels that are void belong to none."""
        labels = self.fitting_labels(size)
        if self.objects_mask is None:
            present = [label for label in count_labels(labels) if label not in (BACKGROUND, VOID)]
            return Objects.from_map(labels, {label: label - 1 for label in present})
        codes = read_color_codes(self.objects_mask, self.pair.image)
        check_same_size(Pair(self.pair.name, self.pair.image, self.objects_mask), size, codes.shape)
        codes[np.isin(codes, VOID_CODES)] = NO_OBJECT
        found, numbers = np.unique(codes, return_inverse=True)
        numbers = numbers.reshape(codes.shape)
        # pixels of each object and label
        counts = np.bincount((numbers * (VOID + 1) + labels).ravel(), minlength=len(found) * (VOID + 1))
        counts = counts.reshape(len(found), VOID + 1)
        counts[:, [BACKGROUND, VOID]] = 0
        class_of = {}
        for number, code in enumerate(found.tolist()):
            if code == NO_OBJECT:
                continue
            if not counts[number].any():
                color = (code & 255, code >> 8 & 255, code >> 16)
                raise UserError(
                    f"{self.objects_mask}: the object of color {color} has no class in {self.pair.mask}; give files of "
                    "one export"
                )
            class_of[number] = int(counts[number].argmax()) - 1
        return Objects.from_map(numbers, class_of)

    def fitting_labels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the labels of an image of a size, see `labels`.

        Raises:
            UserError: The mask has another size.
        """
        labels = self.labels()
        check_same_size(self.pair, size, labels.shape)
        return labels

    def labels(self) -> np.ndarray:
        """Return 0 for background, 1 + class id, or 255 for void, (H, W) uint8, turned as the image is."""
        count = len(self.colors)
        if read_header(self.pair.mask).mode in ("RGB", "RGBA", *(["P"] if self.has_label_map else [])):
            raw = read_mask(self.pair.mask, [*self.colors, VOID_COLOR], self.pair.image)
            return np.where(raw == count, VOID, raw).astype(np.uint8)
        raw = read_mask(self.pair.mask, image=self.pair.image)
        unknown = (raw >= count) & (raw != VOID)
        if unknown.any():
            raise UserError(
                f"{self.pair.mask}: label {raw[unknown][0]} ({int(unknown.sum())} pixels); 0 (background) to "
                f"{count - 1} and 255 (void) are known: give class_names, or a {LABEL_MAP}"
            )
        return raw.astype(np.uint8)


def find_voc(path: Path) -> Path | None:
    """Return the folder with Pascal VOC's folders, in a folder or in its usual places there; None without one."""
    roots = [path / place for place in INSIDE]
    return next((root for root in roots if (root / IMAGES).is_dir() and (root / CLASS_MASKS).is_dir()), None)


def read_label_map(file: Path) -> tuple[list[str], list[Color]]:
    """Return the names of the classes in a `labelmap.txt`, and the colors of background and classes.

    Its lines are `name:red,green,blue:parts:actions`; where a color is missing, it is that of Pascal's palette.

    Raises:
        UserError: It holds something else.
    """
    names, colors = list[str](), list[Color]()
    remedy = "write name:red,green,blue:: for each class, background first"
    for number, line in enumerate(read_text(file, remedy).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        # names may hold colons
        name, color, *_ = [*line.strip().rsplit(":", 3), ""] if line.count(":") >= 3 else [*line.split(":"), "", ""]
        parts = [part.strip() for part in color.split(",")]
        if color and not (len(parts) == 3 and all(part.isdecimal() and int(part) <= 255 for part in parts)):
            raise UserError(f"{file}: line {number}: {shortened(line)!r}; {remedy}")
        names.append(name)
        colors.append((int(parts[0]), int(parts[1]), int(parts[2])) if color else voc_color(len(colors)))
    if not names or names[0].lower() != "background":
        names, colors = ["background", *names], [voc_color(0), *colors]
    if len(set(names)) < len(names) or len(set(colors)) < len(colors) or not 2 <= len(names) <= VOID:
        raise UserError(f"{file}: {len(names)} labels; 2 to {VOID} of different names and colors are possible")
    return names[1:], colors


def read_voc(root: Path, class_names: Sequence[str] | None) -> tuple[list[str], dict[str, list[AnnotatedImage]]]:
    """Return the names of the classes, and the images of each split that has a list, or of "all".

    Args:
        root: The folder with `JPEGImages` and `SegmentationClass`, see `find_voc`.
        class_names: Names of the classes where there is no `labelmap.txt`; None for Pascal's own.

    Raises:
        UserError: Files are missing, or hold something else.
    """
    if (root / LABEL_MAP).is_file():
        names, colors = read_label_map(root / LABEL_MAP)
    else:
        names = list(class_names or PASCAL_CLASSES)
        colors = [voc_color(index) for index in range(len(names) + 1)]
    images = _by_stem(root / IMAGES)
    class_masks, object_masks = _by_stem(root / CLASS_MASKS), _by_stem(root / OBJECT_MASKS)
    lists = {named_split(file.stem): file for file in sorted((root / LISTS / "Segmentation").glob("*.txt"))}
    wanted = {split: lists[split] for split in SPLITS if split in lists}
    splits: dict[str, list[AnnotatedImage]] = {}
    for split, file in wanted.items() if "train" in wanted else ():
        stems = _listed(file)
        # those of the official test are not public
        if split == "test" and not any(stem in class_masks for stem in stems):
            continue
        splits[split] = _samples(root, file, stems, images, class_masks, object_masks, tuple(colors))
    if not splits:
        stems = sorted(class_masks)
        if without := [images[stem] for stem in sorted(images.keys() - class_masks.keys())]:
            log.warning(
                "%s: %s without a mask in %s, left out: %s",
                *(root / IMAGES, counted(len(without), "image"), CLASS_MASKS, listed(without, most=3)),
            )
        splits["all"] = _samples(root, root / CLASS_MASKS, stems, images, class_masks, object_masks, tuple(colors))
    return names, splits


def _listed(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file, "give a list of names, one a line").splitlines() if line.strip()]


def _by_stem(folder: Path) -> dict[str, str]:
    """Return the images in a folder by their names without the ending."""
    if not folder.is_dir():
        return {}
    found: dict[str, str] = {}
    for name in find_image_files(folder):
        stem = stem_of(name, os.path.splitext(name)[1])
        if stem in found:
            raise UserError(f"{folder / name}: has the name of {found[stem]}; keep one of the two")
        found[stem] = name
    return found


def _samples(
    root: Path,
    source: Path,
    stems: Sequence[str],
    images: dict[str, str],
    class_masks: dict[str, str],
    object_masks: dict[str, str],
    colors: tuple[Color, ...],
) -> list[AnnotatedImage]:
    for stem in stems:
        for folder, found in ((IMAGES, images), (CLASS_MASKS, class_masks)):
            if stem not in found:
                raise UserError(f"{source}: {shortened(stem)!r}: no such file in {root / folder}; add it")
        if object_masks and stem not in object_masks:
            raise UserError(
                f"{source}: {shortened(stem)!r}: no such file in {root / OBJECT_MASKS}, which has "
                f"{counted(len(object_masks), 'other')}; add it, or remove the folder to take each class as one object"
            )
    found_masks = [
        VocMasks(
            Pair(images[stem], root / IMAGES / images[stem], root / CLASS_MASKS / class_masks[stem]),
            root / OBJECT_MASKS / object_masks[stem] if object_masks else None,
            colors,
            (root / LABEL_MAP).is_file(),
        )
        for stem in stems
    ]

    def classes(masks: VocMasks) -> frozenset[int]:
        return frozenset(label - 1 for label in count_labels(masks.labels()) if label not in (BACKGROUND, VOID))

    shown = map_in_threads(classes, found_masks, "Reading masks")
    return [
        AnnotatedImage(masks.pair.name, masks.pair.image, present, masks)
        for masks, present in zip(found_masks, shown, strict=True)
    ]
