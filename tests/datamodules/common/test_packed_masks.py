"""Packed masks show what whole masks show."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from datamodules.common.packed_masks import OUTSIDE, PackedMasks, resized_lines

SIZE = (23, 41)


def whole_masks(seed: int, number: int = 7) -> np.ndarray:
    """Return masks of all sizes, from a pixel to the whole image, (N, H, W) bool."""
    random = np.random.default_rng(seed)
    masks = np.zeros((number, *SIZE), dtype=bool)
    for index, mask in enumerate(masks):
        height, width = random.integers(1, SIZE[0] + 1), random.integers(1, SIZE[1] + 1)
        height, width = (1, 1) if index == 0 else SIZE if index == 1 else (height, width)
        top, left = random.integers(0, SIZE[0] - height + 1), random.integers(0, SIZE[1] - width + 1)
        mask[top : top + height, left : left + width] = random.random((height, width)) < 0.6
        mask[top, left] = mask[top + height - 1, left + width - 1] = True
    return masks


def packed(masks: np.ndarray) -> PackedMasks:
    parts = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        parts.append((top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]))
    return PackedMasks.pack(parts)


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_shows_of_each_mask_what_its_rows_and_columns_hold(seed: int) -> None:
    random, masks = np.random.default_rng([seed, 1]), whole_masks(seed)
    rows = np.sort(random.integers(0, SIZE[0], random.integers(1, 30)))[:: random.choice([1, -1])]
    columns = np.sort(random.integers(0, SIZE[1], random.integers(1, 50)))[:: random.choice([1, -1])]
    rows, columns = np.pad(rows, (2, 3), constant_values=OUTSIDE), np.pad(columns, (1, 0), constant_values=OUTSIDE)
    shown, positions = packed(masks).shown(torch.from_numpy(rows), torch.from_numpy(columns))
    expected = masks[:, rows[:, None], columns] & (rows[:, None] >= 0) & (columns >= 0)
    assert positions.tolist() == np.flatnonzero(expected.any((1, 2))).tolist()
    assert (shown.numpy() == expected[positions]).all()


@pytest.mark.parametrize("length", [1, 2, 7, 480, 4000])
@pytest.mark.parametrize("resized", [1, 3, 14, 640, 5003])
def test_lines_of_a_resize_are_those_that_torchvision_shows(length: int, resized: int) -> None:
    image = torch.arange(length, dtype=torch.int32) % 251
    expected = F.resize(image.to(torch.uint8)[None, None], [1, resized], InterpolationMode.NEAREST_EXACT)[0, 0]
    assert torch.equal(image[resized_lines(length, resized)].to(torch.uint8), expected)


@pytest.mark.parametrize("flipped", [[], [-1], [-2], [-1, -2]])
@pytest.mark.parametrize("size", [(23, 41), (64, 64), (5, 6), (1, 1)])
def test_no_mask_is_lost_by_making_it_smaller(size: tuple[int, int], flipped: list[int]) -> None:
    masks = whole_masks(3, 20)
    masks[2:12] = False
    masks[np.arange(2, 12), np.arange(10), 3 * np.arange(10)] = True
    found = packed(masks).resized(SIZE, size, flipped)
    whole = torch.from_numpy(masks).flip(flipped)
    expected = F.resize(whole.byte(), list(size), InterpolationMode.NEAREST_EXACT).bool()
    lost = ~expected.flatten(1).any(1)
    expected[lost] = adaptive_max_pool2d(whole[lost].float(), size) > 0
    assert torch.equal(found, expected)
    assert found.flatten(1).any(1).all()


def test_there_may_be_no_mask() -> None:
    none = PackedMasks.pack([])
    assert none.resized(SIZE, (8, 10)).shape == (0, 8, 10)
    assert none.shown(torch.arange(3), torch.arange(4))[0].shape == (0, 3, 4)


def test_masks_travel_and_are_kept_as_bits() -> None:
    masks = packed(whole_masks(0))
    again = pickle.loads(pickle.dumps(masks))
    assert isinstance(again, PackedMasks)
    assert all(torch.equal(one, other) for one, other in zip(masks, again, strict=True))
    assert masks.bits.numel() <= sum(-(-width // 8) * height for _, _, height, width in masks.rectangles.tolist())

    def read(_: int) -> tuple[Tensor, ...]:
        return (*masks,)

    kept = KeptSamples(read)
    assert kept(0)[0] is kept(0)[0]
