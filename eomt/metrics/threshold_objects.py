"""The cheapest way to find objects: connected components of what a brightness threshold sets apart."""

import numpy as np
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from eomt.utils.packed_masks import PackedMasks

EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)
NUM_LEVELS = 256


def threshold_objects(image: Tensor, most: int) -> PackedMasks:
    """Return the largest components of the brighter or the darker part of an image, whichever is smaller.

    Args:
        image: uint8 RGB `(3, H, W)`.
        most: The most components.

    Returns:
        N masks, the largest first.
    """
    gray = rgb_to_grayscale(image)[0].cpu().numpy()
    bright = gray > otsu_threshold(gray)
    numbers, count = ndimage.label(bright if bright.mean() <= 0.5 else ~bright, EIGHT_NEIGHBORS)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    largest = np.argsort(-areas, kind="stable")[:most] + 1
    boxes = ndimage.find_objects(numbers)
    parts = [
        (rows.start, columns.start, numbers[rows, columns] == number)
        for number in largest.tolist()
        for rows, columns in [boxes[number - 1]]
    ]
    return PackedMasks.pack(parts, (gray.shape[0], gray.shape[1]))


def otsu_threshold(gray: np.ndarray) -> int:
    """Return the level that tells two kinds of pixels apart with the largest variance between them.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms" (IEEE Trans. SMC 9, 1979).

    Args:
        gray: uint8 `(H, W)`.

    Returns:
        The highest level of the darker kind.
    """
    share = np.bincount(gray.ravel(), minlength=NUM_LEVELS) / gray.size
    below, sum_below = np.cumsum(share), np.cumsum(share * np.arange(NUM_LEVELS))
    between = (sum_below[-1] * below - sum_below) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return int(between.argmax())
