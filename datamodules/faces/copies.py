"""Copies of faces, also those that were stored anew: in another format or size, compressed harder, or mirrored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from datamodules.common.reading import read_small_image
from datamodules.common.threads import map_in_threads

# pixels of a thumbnail each way, and of the coarse one by which candidates are found
SIDE, COARSE = 16, 4
# root mean square of differences of gray levels; drawn faces of 64 x 64 pixels: JPEG of quality 75 up to 3.8, of
# quality 50 up to 4.6; the closest two different faces of 2,560: 11.2
TOLERANCE = 5.0


def find_copies(files: Sequence[Path]) -> dict[Path, Path]:
    """Return for each file the first one that shows the same picture; its own where there is none.

    Thumbnails are compared, as they are and mirrored, so that a copy is found whatever its format and size. One that
    was cut, turned or recolored is not, nor one whose compression is seen (JPEG below a quality of about 50).

    Raises:
        UserError: A file cannot be read as an image.
    """
    files = list(dict.fromkeys(files))
    if not files:
        return {}
    plain = np.array(map_in_threads(_thumbnail, files, "Looking for copies of images"))  # (N, 16, 16, 3) uint8
    fine = np.concatenate([plain, plain[:, :, ::-1]])
    step = SIDE // COARSE
    coarse = fine.reshape(-1, COARSE, step, COARSE, step, 3).mean((2, 4)).reshape(len(fine), -1)
    # a mean of differences is no larger than their root mean square, so no copy is lost
    pairs = cKDTree(coarse).query_pairs(TOLERANCE * coarse.shape[1] ** 0.5, output_type="ndarray")
    same = DisjointSet(range(len(files)))
    for first, second in pairs:
        if np.square(fine[first].astype(np.float32) - fine[second]).mean() <= TOLERANCE**2:
            same.merge(first % len(files), second % len(files))
    first_of = {place: min(places) for places in same.subsets() for place in places}
    return {file: files[first_of[place]] for place, file in enumerate(files)}


def _thumbnail(file: Path) -> np.ndarray:
    small = read_small_image(file, 4 * SIDE).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small)
