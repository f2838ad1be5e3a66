"""One look at all files before training starts."""

from datamodules.common.label_arrays import count_labels
from datamodules.common.mask_labels import Color
from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import check_image, read_mask
from datamodules.common.threads import map_in_threads


def scan_pairs(pairs: list[Pair], class_colors: list[Color] | None, title: str) -> list[dict[int, int]]:
    """Check every pair's files and return each mask's number of pixels per raw label.

    Raises:
        UserError: A file is damaged, an image cannot be used, or image and mask differ in size.
    """

    def scan(pair: Pair) -> dict[int, int]:
        raw = read_mask(pair.mask, class_colors, pair.image)
        check_same_size(pair, check_image(pair.image), raw.shape)
        return count_labels(raw)

    return map_in_threads(scan, pairs, title)
