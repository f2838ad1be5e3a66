"""Arithmetic on masks of labels, which have some million pixels each."""

import numpy as np


def count_labels(raw: np.ndarray) -> dict[int, int]:
    """Return the number of pixels of each label in a mask (H, W) of unsigned integers, by rising label."""
    # not torch's: its threads do not start in a thread of a forked process
    pixels = np.bincount(raw.ravel())
    return {int(label): int(pixels[label]) for label in np.flatnonzero(pixels)}


def look_up(table: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Return what a table (256,) uint8 says of each label in a mask (H, W) uint8, as uint8."""
    # as bytes, which takes a sixth of the time of an index
    return np.frombuffer(bytearray(raw).translate(table.tobytes()), dtype=np.uint8).reshape(raw.shape)
