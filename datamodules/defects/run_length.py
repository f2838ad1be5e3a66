"""Kaggle's run-length encoding of masks: "start length start length ...".

Pixels are counted from 1, down the first column, then down the second.
"""

import numpy as np

from eomt.errors import UserError


def encode_runs(mask: np.ndarray) -> str:
    """Encode a mask (H, W) bool; an empty mask gives an empty string."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = changes[::2], changes[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def decode_runs(runs: str, size: tuple[int, int], source: str) -> np.ndarray:
    """Decode a mask.

    Args:
        runs: Starts and lengths in turn; runs may overlap and come in any order.
        size: Height and width of the image.
        source: File and row, for messages.

    Returns:
        (H, W) bool.

    Raises:
        UserError: An odd number of values, values that are no whole numbers, or runs that leave the image.
    """
    height, width = size
    starts, lengths = parse_runs(runs, source)
    # not starts + lengths, which numbers out of all bounds would overflow
    outside = starts > height * width - lengths
    if outside.any():
        start, length = int(starts[outside][0]), int(lengths[outside][0])
        raise UserError(
            f"{source}: the run {start + 1} {length} ends at pixel {start + length}, but the image of "
            f"{height} x {width} (height x width) has {height * width}; correct or remove the row"
        )
    # how many runs begin at a pixel, less those that have ended there: the pixels of all runs, one by one, may be more
    # than the image's by as many times as there are runs
    changes = np.zeros(height * width + 1, dtype=np.int32)
    np.add.at(changes, starts, 1)
    np.add.at(changes, starts + lengths, -1)
    flat = np.cumsum(changes[:-1], dtype=np.int32) > 0
    return np.ascontiguousarray(flat.reshape(width, height).T)


def parse_runs(runs: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts, counted from 0, and the lengths of runs, two int64 arrays (R,).

    Raises:
        UserError: An odd number of values, or values that are no whole numbers of at least 1.
    """
    try:
        values = np.array(runs.split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        reason = str(error).replace("with base 10: ", "")
        raise UserError(f"{source}: runs must be whole numbers ({reason}); correct or remove the row") from error
    if len(values) % 2:
        raise UserError(
            f"{source}: {len(values)} run values, an odd number; each start needs a length, correct or remove the row"
        )
    if values.min(initial=1) < 1:
        raise UserError(f"{source}: run value {values.min()}; starts count from 1 and lengths are at least 1")
    return values[::2] - 1, values[1::2]
