"""What looks odd in annotated images: each finding is a line, and none of them is an error."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage

from datamodules.common.areas import rims
from datamodules.common.reading import image_size, orientation_of
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile
from datamodules.faces.copies import find_copies
from datamodules.objects.annotation import AnnotatedImage, CroppedMask, Objects
from eomt.errors import counted, listed, shortened

# images of a split that are looked at, and copies that are looked for among
MOST_IMAGES, MOST_COMPARED = 200, 5000
# pixels of an object below which its mask says little
FEW_PIXELS = 20
# copies that are named
MOST_PAIRS = 3
# labels of rims that are named
MOST_LABELS = 5
NEIGHBORS = np.ones((3, 3), dtype=bool)


def annotated_objects(images: Sequence[AnnotatedImage]) -> list[tuple[AnnotatedImage, Objects]]:
    """Return the objects of the first images of a split."""
    chosen = images[:MOST_IMAGES]
    read = map_in_threads(
        lambda image: image.annotation.objects(image_size(image.image), orientation_of(image.image)),
        chosen,
        "Looking at objects",
    )
    return list(zip(chosen, read, strict=True))


def object_lines(split: str, found: Sequence[tuple[AnnotatedImage, Objects]]) -> Iterator[str]:
    """Yield lines on the sizes of images and objects of a split, and on what looks odd in them.

    Args:
        split: Its name.
        found: Images with their objects.
    """
    sizes = sorted({objects.size for _, objects in found}, key=lambda size: (size[0] * size[1], size))
    areas = np.concatenate([objects.areas for _, objects in found]) if found else np.zeros(0)
    line = f"Data: {split}: images of {_size(sizes[0])}" + (f" to {_size(sizes[-1])}" if len(sizes) > 1 else "")
    if len(areas):
        line += f"; objects of {areas.min():,.0f} to {areas.max():,.0f} pixels, {np.median(areas):,.0f} in the middle"
    yield f"{line} ({counted(len(found), 'image')} looked at)"
    small = [f"{image.name} ({area} pixels)" for image, objs in found for area in objs.areas if area < FEW_PIXELS]
    if small:
        number = counted(len(small), "object")
        yield f"Odd: {split}: {number} of fewer than {FEW_PIXELS} pixels: {listed(small, most=3)}"
    thin = {image.name: count for image, objects in found if (count := thin_objects(objects))}
    if thin:
        number = counted(sum(thin.values()), "object")
        yield (
            f"Odd: {split}: {number} nowhere three pixels wide, in {counted(len(thin), 'image')}: lines, or the rims "
            f"of smooth masks: {listed(thin, most=3)}"
        )
    touching = {image.name: pairs for image, objects in found if (pairs := touching_pairs(objects))}
    if touching:
        number = counted(sum(touching.values()), "pair")
        yield (
            f"Odd: {split}: {number} of objects of one class touch, in {counted(len(touching), 'image')}; where only "
            f"classes or components are told apart, they are one: {listed(touching, most=3)}"
        )


def rim_lines(split: str, masks: Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]]) -> Iterator[str]:
    """Yield a line on masks whose edges look smooth: anti-aliased, or resized as images are.

    Their rims are labels of classes too, where classes have numbers between those on both sides.

    Args:
        split: Its name.
        masks: By the name of the image, what reads raw labels, (H, W), and where they stand for something, bool (H, W).
    """
    chosen = list(masks)[:MOST_IMAGES]
    found = map_in_threads(lambda name: rims(*masks[name]()), chosen, "Looking at masks")
    smooth = {name: rim for name, rim in zip(chosen, found, strict=True) if rim.look_smooth}
    if not smooth:
        return
    labels, counts = np.unique(np.concatenate([rim.labels for rim in smooth.values()]), return_counts=True)
    shown = listed(sorted(labels[np.argsort(-counts, kind="stable")][:MOST_LABELS].tolist()), most=MOST_LABELS)
    yield (
        f"Odd: {split}: {counted(len(smooth), 'mask')} of {len(chosen)} look smooth (anti-aliased, resized or JPEG): "
        f"at most edges stands a thin rim of labels between those on both sides ({shown}), and each is learned as its "
        f"class: {listed(smooth, most=3)}"
    )


def thin_objects(objects: Objects) -> int:
    """Return how many objects, that are not tiny, are nowhere three pixels wide each way."""
    cross = ndimage.generate_binary_structure(2, 1)
    return sum(
        int(part.pixels.sum()) >= FEW_PIXELS and not ndimage.binary_erosion(part.pixels, cross).any()
        for part in objects.cropped
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _box(part: CroppedMask) -> tuple[int, int, int, int]:
    """Return the first row and column of a mask, and those behind its last."""
    height, width = part.pixels.shape
    return part.top, part.left, part.top + height, part.left + width


def touching_pairs(objects: Objects) -> int:
    """Return how many pairs of objects of one class share pixels, or have pixels side by side (8 neighbors)."""
    boxes = np.array(
        [
            (part.top, part.left, part.top + part.pixels.shape[0], part.left + part.pixels.shape[1])
            for part in objects.cropped
        ]
    ).reshape(-1, 4)
    count = 0
    for one, first in enumerate(objects.cropped):
        # a pixel more on each side
        top, left, bottom, right = boxes[one] + (-1, -1, 1, 1)
        later = boxes[one + 1 :]
        is_near = (later[:, 0] < bottom) & (later[:, 2] > top) & (later[:, 1] < right) & (later[:, 3] > left)
        is_near &= objects.class_ids[one + 1 :] == objects.class_ids[one]
        if not is_near.any():
            continue
        grown = ndimage.binary_dilation(np.pad(first.pixels, 1), NEIGHBORS)
        for other in np.flatnonzero(is_near) + one + 1:
            second = objects.cropped[other]
            rows = slice(max(top, second.top), min(bottom, boxes[other][2]))
            columns = slice(max(left, second.left), min(right, boxes[other][3]))
            near = grown[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            inside = second.pixels[
                rows.start - second.top : rows.stop - second.top,
                columns.start - second.left : columns.stop - second.left,
            ]
            count += bool((near & inside).any())
    return count


def copy_lines(splits: Mapping[str, Sequence[tuple[str, ImageFile]]]) -> Iterator[str]:
    """Yield a line where images of different splits look the same, however they are stored.

    Args:
        splits: Name and file of each image, by split.
    """
    placed = {file: (split, name) for split, images in splits.items() for name, file in images}
    compared = list(placed)[:MOST_COMPARED]
    pairs = [(placed[first], placed[file]) for file, first in find_copies(compared).items()]
    across = [
        f"{shortened(f'{a}/{name}')} and {shortened(f'{b}/{other}')}" for (a, name), (b, other) in pairs if a != b
    ]
    if across:
        number = counted(len(across), "image")
        yield (
            f"Odd: {number} of one split can be seen in another, too, where what is measured is not to be trained on: "
            f"{', '.join(across[:MOST_PAIRS])}{', ...' if len(across) > MOST_PAIRS else ''}"
        )
