"""Run lengths against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules.objects.annotation import Objects
from datamodules.objects.run_lengths import compress, count_pixels, decode_counts
from eomt.errors import UserError


def random_mask(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = random.integers(1, 70, 2)
    mask = random.random(size) < random.choice([0.02, 0.5, 0.98, 1.0])
    # large holes and runs over several columns, so that counts have several digits, and differences both signs
    mask[:, size[1] // 3 : size[1] // 2] = seed % 2
    return mask


@pytest.mark.parametrize("seed", range(40))
def test_masks_are_those_of_pycocotools(seed: int) -> None:
    mask = random_mask(seed)
    size = (mask.shape[0], mask.shape[1])
    text = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert count_pixels(text, size, "") == mask.sum()
    part = decode_counts(text, size)
    if part is None:
        assert not mask.any()
        return
    np.testing.assert_array_equal(Objects.from_cropped(size, [part], [0]).masks[0], mask)
    rows, columns = part.pixels.any(1), part.pixels.any(0)
    assert all([rows[0], rows[-1], columns[0], columns[-1]])
    assert part.pixels.dtype == bool


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_compressed_as_pycocotools_does(seed: int) -> None:
    mask = random_mask(seed)
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    size = (mask.shape[0], mask.shape[1])
    assert compress(counts, size, "") == coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


@pytest.mark.parametrize("counts", [[0, 3, 0, 3, 6], [3, 0, 2, 4, 3], [0, 0, 0, 12], [12, 0]])
def test_runs_of_no_pixels_change_nothing(counts: list[int]) -> None:
    text = compress(counts, (3, 4), "")
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(4, 3).T
    part = decode_counts(text, (3, 4))
    found = np.zeros((3, 4), dtype=bool)
    if part is not None:
        found[part.window] = part.pixels
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("counts", [[13], [11], [], [2**70]])
def test_counts_of_another_size_are_refused(counts: list[int]) -> None:
    with pytest.raises(UserError, match=r"^file: run lengths of .* pixels for an image of 3 x 4"):
        compress(counts, (3, 4), "file")


def test_counts_below_zero_are_refused() -> None:
    with pytest.raises(UserError, match=r"^file: a run length of -1 pixels"):
        compress([5, -1, 8], (3, 4), "file")


@pytest.mark.parametrize("text", [b"P", b"0000\x00", b"\xff", b"o" * 13 + b"0", b"<" + b"p"])
def test_texts_that_hold_no_counts_are_refused(text: bytes) -> None:
    with pytest.raises(UserError, match=r"^file: counts are no run lengths of COCO"):
        count_pixels(text, (3, 4), "file")


def test_texts_of_another_size_are_refused() -> None:
    text = coco_mask.encode(np.ones((3, 5), dtype=np.uint8, order="F"))["counts"]
    with pytest.raises(UserError, match=r"run lengths of 15 pixels for an image of 3 x 4 \(height"):
        count_pixels(text, (3, 4), "file")
