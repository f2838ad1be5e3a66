"""Copies of faces, also those that were stored anew: in another format or size, compressed harder, or mirrored."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from datamodules.common.reading import read_small_image
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile

# pixels of a thumbnail each way, and of the coarse one by which candidates are found
SIDE, COARSE = 16, 4
# root mean square of differences of gray levels; drawn faces of 64 x 64 pixels: JPEG of quality 75 up to 3.8, of
# quality 50 up to 4.6; the closest two different faces of 2,560: 11.2
TOLERANCE = 5.0
# candidates that are compared at once; their thumbnails take some MB
PAIRS = 2048
# share of the variance that the axes tell along which candidates are found, and what a turn of them may round
TOLD, ROUNDING = 0.9, 1 + 1e-6

File = TypeVar("File", bound=ImageFile)


def find_copies(files: Sequence[File]) -> dict[File, File]:
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
    # equal ones are one: of a picture that is there a thousand times, half a million pairs would be compared
    _, firsts, number_of = np.unique(plain.reshape(len(plain), -1), axis=0, return_index=True, return_inverse=True)
    distinct = plain[firsts]
    fine = np.concatenate([distinct, distinct[:, :, ::-1]])
    step = SIDE // COARSE
    coarse = fine.reshape(-1, COARSE, step, COARSE, step, 3).mean((2, 4)).reshape(len(fine), -1)
    # a mean of differences is no larger than their root mean square, so no copy is lost
    radius = TOLERANCE * coarse.shape[1] ** 0.5 * ROUNDING
    pairs = cKDTree(_on_principal_axes(coarse)).query_pairs(radius, output_type="ndarray")
    same = DisjointSet(range(len(distinct)))
    for start in range(0, len(pairs), PAIRS):
        first, second = pairs[start : start + PAIRS].T
        differences = np.square(fine[first].astype(np.float32) - fine[second]).mean((1, 2, 3))
        for one, other in pairs[start : start + PAIRS][differences <= TOLERANCE**2] % len(distinct):
            same.merge(int(one), int(other))
    first_of = {
        number: min(int(firsts[other]) for other in numbers) for numbers in same.subsets() for number in numbers
    }
    return {file: files[first_of[int(number)]] for file, number in zip(files, number_of.ravel(), strict=True)}


def _on_principal_axes(points: np.ndarray) -> np.ndarray:
    """Return points (N, D) along the axes in which they differ most, (N, K): none are further apart than they were.

    A tree parts them there by its first cuts. Along the given axes, of which each tells a little, it would compare
    nearly all of them with each other.
    """
    centered = points - points.mean(0)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    told = np.cumsum(variances[::-1])
    return centered @ axes[:, ::-1][:, : np.searchsorted(told, TOLD * told[-1]) + 1]


def _thumbnail(file: ImageFile) -> np.ndarray:
    small = read_small_image(file, 4 * SIDE).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small)
