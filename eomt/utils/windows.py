"""Sliding windows over images of any size, and the mean of what a network predicts in them."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from eomt.errors import UserError, listed
from eomt.utils.packed_masks import OUTSIDE, PackedMasks, resized_lines


class WindowResult(NamedTuple):
    """The prediction for K windows."""

    maps: Iterable[Tensor]  # K of (C, h, w), at the window's size; made one at a time, since they are large
    loss: Tensor | None  # (K,)


class ImageResult(NamedTuple):
    """The mean prediction over the windows of an image."""

    maps: Tensor  # (C, H, W)
    loss: Tensor | None  # ()


def covering_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size with the aspect ratio of `size` that covers a window.

    The longer side is cut to whole pixels, as in torchvision and transformers.
    """
    if window[0] * size[1] >= window[1] * size[0]:
        return window[0], window[0] * size[1] // size[0]
    return window[1] * size[0] // size[1], window[1]


def fitting_size(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size with the aspect ratio of `size` that fits into a window, at least 1 pixel each way.

    Sides are rounded to whole pixels, as in the code of EoMT's authors; transformers' long side is now and then one
    less.
    """
    factor = min(window[0] / size[0], window[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fit_image(image: Tensor, window: tuple[int, int]) -> Tensor:
    """Return an image, uint8 `(3, H, W)`, fitted into a window, `(3, *window)`; below and right of it are zeros."""
    height, width = fitting_size((image.shape[-2], image.shape[-1]), window)
    return F.pad(resize_image(image[None], (height, width))[0], (0, window[1] - width, 0, window[0] - height))


def fit_masks(masks: PackedMasks, window: tuple[int, int]) -> PackedMasks:
    """Return masks fitted into a window like their image, by nearest neighbors; small ones may become empty."""
    rows, columns = (
        F.pad(resized_lines(length, shown, "nearest"), (0, available - shown), value=OUTSIDE)
        for length, shown, available in zip(masks.size, fitting_size(masks.size, window), window, strict=True)
    )
    return masks.shown(rows, columns)


def window_corners(size: tuple[int, int], window: tuple[int, int], overlap: float = 0.0) -> list[tuple[int, int]]:
    """Return the top-left corners of the fewest evenly spread windows that cover `size`.

    Args:
        size: Height and width to cover.
        window: Height and width of a window.
        overlap: Least share of a window that its neighbor covers too.
    """

    def starts(length: int, width: int) -> list[int]:
        count = 1 + math.ceil(max(0, length - width) / (width * (1 - overlap)))
        shared = (count * width - length) / max(1, count - 1)
        # in this order, so that starts are cut to the pixels of transformers; the last window reaches the end
        return [*(int(i * (width - shared)) for i in range(count - 1)), length - width]

    return [(top, left) for top in starts(size[0], window[0]) for left in starts(size[1], window[1])]


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images, uint8 `(B, 3, H, W)`, resized with antialiasing, or the same tensor if they have that size."""
    return image if tuple(image.shape[-2:]) == size else TF.resize(image, list(size), antialias=True)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks, int64 `(B, H, W)`, resized by nearest neighbors, or the same tensor if they have that size."""
    nearest = TF.InterpolationMode.NEAREST
    return mask if tuple(mask.shape[-2:]) == size else TF.resize(mask, list(size), interpolation=nearest)


class View(NamedTuple):
    """How the windows of an image are laid."""

    scale: float = 1.0  # size of the image, in parts of the one that just covers a window; at least 1
    flip: bool = False  # mirror the image, and its maps back
    overlap: float = 0.0  # see `window_corners`


def make_views(overlap: float, flip: bool, scales: Sequence[float]) -> list[View]:
    """Return the views of an image in `test`: each scale, as it is and, with `flip`, mirrored.

    Raises:
        UserError: For an overlap or a scale that cannot be.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"test_overlap: {overlap}; must be at least 0 and below 1")
    if not scales or not all(1 <= scale <= 8 for scale in scales):
        raise UserError(f"test_scales: [{listed(scales)}]; must be one or more numbers from 1 to 8")
    return [View(scale, mirrored, overlap) for scale in scales for mirrored in ((False, True) if flip else (False,))]


class _Canvas:
    """An image, uint8 `(3, H, W)`, and its mask, `(H, W)`, with the sum of the windows evaluated so far."""

    def __init__(self, image: Tensor, mask: Tensor | None, window: tuple[int, int], view: View) -> None:
        self.size = (image.shape[-2], image.shape[-1])
        self.view = view
        height, width = covering_size(self.size, window)
        self.covered = (round(height * view.scale), round(width * view.scale))
        self.image = resize_image(image[None], self.covered)[0]
        self.mask = None if mask is None else resize_mask(mask[None], self.covered)[0]
        if view.flip:
            self.image = self.image.flip(-1)
            self.mask = None if self.mask is None else self.mask.flip(-1)
        self.areas = [
            (slice(top, top + window[0]), slice(left, left + window[1]))
            for top, left in window_corners(self.covered, window, view.overlap)
        ]
        self.missing = len(self.areas)
        self.total, self.count = torch.empty(0), torch.empty(0)
        self.losses: list[Tensor] = []

    def add(self, maps: Tensor, rows: slice, columns: slice) -> None:
        """Add the maps of one window, `(C, h, w)`, at the resolution of the image."""
        if self.missing == len(self.areas):
            self.total, self.count = maps.new_zeros(len(maps), *self.covered), maps.new_zeros(self.covered)
        self.total[:, rows, columns] += maps
        self.count[rows, columns] += 1
        self.missing -= 1

    def result(self) -> ImageResult:
        """Return the mean of all windows, at the size of the image."""
        maps = self.total.div_(self.count)
        if self.view.flip:
            maps = maps.flip(-1)
        if self.covered != self.size:
            maps = F.interpolate(maps[None], self.size, mode="bilinear")[0]
        return ImageResult(maps, torch.stack(self.losses).mean() if self.losses else None)


_Crop = tuple[_Canvas, slice, slice]


def over_windows(
    evaluate: Callable[[Tensor, Tensor | None], WindowResult],
    images: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor] | None,
    window: tuple[int, int],
    batch_size: int,
    view: View,
) -> Iterator[ImageResult]:
    """Evaluate images of any size in windows, and yield the mean of each image, in order.

    Memory holds `batch_size` windows and the maps of one image, however many windows and images there are.

    Args:
        evaluate: Takes K windows, uint8 `(K, 3, h, w)`, K <= `batch_size`, and their masks, int64 `(K, h, w)`, or None.
        images: Images, each uint8 `(3, H, W)`.
        masks: Masks, each int64 `(H, W)`; None without labels.
        window: Height and width.
        batch_size: Number of windows that are evaluated at once; they may be of several images.
        view: How windows are laid.
    """
    crops: deque[_Crop] = deque()
    for index, image in enumerate(images):
        canvas = _Canvas(image, None if masks is None else masks[index], window, view)
        for rows, columns in canvas.areas:
            crops.append((canvas, rows, columns))
            if len(crops) == batch_size:
                yield from _evaluated(evaluate, crops)
    if crops:
        yield from _evaluated(evaluate, crops)


def over_views(views: Sequence[View], results: Callable[[View], Iterator[ImageResult]]) -> Iterator[ImageResult]:
    """Yield the mean of each image's maps over several views, with the loss of the first view.

    Args:
        views: At least one.
        results: Returns the results of all images in a view, as `over_windows` does.
    """
    for of_image in zip(*map(results, views), strict=True):
        maps = of_image[0].maps
        for other in of_image[1:]:
            maps += other.maps
        yield ImageResult(maps.div_(len(views)), of_image[0].loss)


def _evaluated(evaluate: Callable[[Tensor, Tensor | None], WindowResult], crops: deque[_Crop]) -> Iterator[ImageResult]:
    """Evaluate all `crops` and remove them; yield the images that are complete then."""
    image = torch.stack([canvas.image[:, rows, columns] for canvas, rows, columns in crops])
    masks = [canvas.mask[rows, columns] for canvas, rows, columns in crops if canvas.mask is not None]
    found = evaluate(image, torch.stack(masks) if masks else None)
    for index, maps in enumerate(found.maps):
        canvas, rows, columns = crops.popleft()
        canvas.add(maps, rows, columns)
        if found.loss is not None:
            canvas.losses.append(found.loss[index])
        if not canvas.missing:
            yield canvas.result()
