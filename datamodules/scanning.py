"""One look at all files before training starts."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track

from datamodules.image_mask_dataset import check_same_size
from datamodules.reading import Color, check_image, read_mask
from datamodules.splits import Pair

PROGRESS_BAR_ABOVE = 500


def scan_pairs(pairs: list[Pair], class_colors: list[Color] | None, title: str) -> list[dict[int, int]]:
    """Check every pair's files and return each mask's number of pixels per raw label.

    Raises:
        UserError: A file is damaged, an image cannot be used, or image and mask differ in size.
    """

    def scan(pair: Pair) -> dict[int, int]:
        raw = read_mask(pair.mask, class_colors)
        check_same_size(pair, check_image(pair.image), raw.shape)
        pixels = np.bincount(raw.ravel())
        return {int(label): int(pixels[label]) for label in np.flatnonzero(pixels)}

    # Pillow decodes outside the interpreter's lock
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        histograms = pool.map(scan, pairs)
        if len(pairs) > PROGRESS_BAR_ABOVE and getattr(rank_zero_only, "rank", 0) == 0:
            return list(track(histograms, description=title, total=len(pairs), transient=True))
        return list(histograms)
