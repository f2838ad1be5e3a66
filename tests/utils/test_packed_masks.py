"""Packed masks show what whole masks show."""

import pickle

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from eomt.losses.point_sampling import neighbors
from eomt.utils import packed_masks
from eomt.utils.packed_masks import OUTSIDE, PackedMasks, paint, resized_lines
from eomt.utils.windows import fit_masks, fitting_size

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
    return PackedMasks.of(torch.from_numpy(masks))


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_shows_of_each_mask_what_its_rows_and_columns_hold(seed: int) -> None:
    random, masks = np.random.default_rng([seed, 1]), whole_masks(seed)
    rows = np.sort(random.integers(0, SIZE[0], random.integers(1, 30)))[:: random.choice([1, -1])]
    columns = np.sort(random.integers(0, SIZE[1], random.integers(1, 50)))[:: random.choice([1, -1])]
    rows, columns = np.pad(rows, (2, 3), constant_values=OUTSIDE), np.pad(columns, (1, 0), constant_values=OUTSIDE)
    shown = packed(masks).shown(torch.from_numpy(rows), torch.from_numpy(columns))
    expected = masks[:, rows[:, None], columns] & (rows[:, None] >= 0) & (columns >= 0)
    assert (shown.dense().numpy() == expected).all()
    assert ((shown.rectangles[:, 2] > 0).numpy() == expected.any((1, 2))).all()


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
    found = packed(masks).resized(size, flipped)
    whole = torch.from_numpy(masks).flip(flipped)
    expected = F.resize(whole.byte(), list(size), InterpolationMode.NEAREST_EXACT).bool()
    lost = ~expected.flatten(1).any(1)
    expected[lost] = adaptive_max_pool2d(whole[lost].float(), size) > 0
    assert torch.equal(found, expected)
    assert found.flatten(1).any(1).all()


@pytest.mark.parametrize("seed", range(4))
def test_masks_are_those_that_were_packed(seed: int) -> None:
    masks = whole_masks(seed)
    # none of a mask's pixels
    masks[3] = False
    found = packed(masks)
    assert (found.dense().numpy() == masks).all()
    assert found.areas.tolist() == masks.sum((1, 2)).tolist()
    positions = torch.tensor([5, 0, 3, 5])
    assert (found.where(positions).dense().numpy() == masks[positions]).all()
    kept = torch.arange(7) % 2 == 0
    assert (found.where(kept).dense().numpy() == masks[kept]).all()
    again = PackedMasks.joined([found.where(kept), found.where(~kept)], SIZE)
    assert (again.dense().numpy() == np.concatenate([masks[kept], masks[~kept]])).all()
    assert PackedMasks.of(found) is found
    for (top, left, pixels), mask in zip(found.parts(), masks, strict=True):
        rebuilt = np.zeros(SIZE, dtype=bool)
        paint(rebuilt, (top, left, pixels), True)
        assert (rebuilt == mask).all()


@pytest.mark.parametrize("seed", range(4))
def test_intersections_count_the_pixels_of_both(seed: int) -> None:
    masks, others = whole_masks(seed), whole_masks(seed + 10, 5)
    others[2] = False
    wanted = np.random.default_rng(seed).random((7, 5)) < 0.7
    expected = (masks[:, None] & others).sum((2, 3)) * wanted
    assert (packed(masks).intersections(packed(others), wanted) == expected).all()


class Subclass(Tensor):
    """Is computed as on a GPU."""


@pytest.mark.parametrize("at_once", [1, 2**24])
@pytest.mark.parametrize("seed", range(4))
def test_masks_are_interpolated_at_points(seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly as whole masks, on a CPU and as on a GPU, also at the edges of the image."""
    monkeypatch.setattr(packed_masks, "VALUES_AT_ONCE", at_once)
    masks = whole_masks(seed)
    masks[3] = False
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(1, 300, 2, generator=generator)
    points[0, :4] = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    index, weight = (part[0] for part in neighbors(points, *SIZE))
    expected = torch.zeros(7, 300)
    for place, share in zip(index.unbind(1), weight.unbind(1), strict=True):
        expected += torch.from_numpy(masks).flatten(1)[:, place] * share
    assert torch.equal(packed(masks).interpolated(index, weight), expected)
    elsewhere = packed(masks).interpolated(index, weight.as_subclass(Subclass))  # type: ignore[arg-type]
    assert torch.equal(elsewhere.as_subclass(Tensor), expected)


def test_masks_that_are_all_empty_have_no_share_of_any_point() -> None:
    empty = packed(np.zeros((2, *SIZE), dtype=bool))
    index, weight = torch.arange(20).view(5, 4), torch.ones(5, 4)
    for weights in (weight, weight.as_subclass(Subclass)):  # type: ignore[arg-type]
        assert empty.interpolated(index, weights).tolist() == [[0.0] * 5] * 2


@pytest.mark.parametrize("window", [(23, 41), (64, 64), (7, 30), (8, 8), (2, 2)])
def test_masks_fit_into_a_window_as_torchvision_resizes_them(window: tuple[int, int]) -> None:
    masks = whole_masks(5)
    size = fitting_size(SIZE, window)
    expected = np.zeros((7, *window), dtype=bool)
    resized = F.resize(torch.from_numpy(masks).byte(), list(size), InterpolationMode.NEAREST).bool()
    expected[:, : size[0], : size[1]] = resized.numpy()
    assert (fit_masks(packed(masks), window).dense().numpy() == expected).all()


def test_masks_reach_a_device_as_a_batch_does() -> None:
    batch = {"masks": [packed(whole_masks(0))]}
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved["masks"][0].bits.device.type == moved["masks"][0].rectangles.device.type == "meta"


def test_there_may_be_no_mask() -> None:
    none = PackedMasks.pack([], SIZE)
    assert none.resized((8, 10)).shape == (0, 8, 10)
    assert none.shown(torch.arange(3), torch.arange(4)).dense().shape == (0, 3, 4)
    assert none.where(torch.zeros(0, dtype=torch.bool)).dense().shape == (0, *SIZE)
    assert PackedMasks.joined([], SIZE).areas.shape == (0,)
    some = packed(whole_masks(0))
    assert none.intersections(some, np.zeros((0, 7), dtype=bool)).shape == (0, 7)
    assert some.intersections(none, np.zeros((7, 0), dtype=bool)).shape == (7, 0)
    index, weight = torch.zeros(5, 4, dtype=torch.int64), torch.ones(5, 4)
    assert none.interpolated(index, weight).shape == (0, 5)


def test_masks_travel_and_are_kept_as_bits() -> None:
    masks = packed(whole_masks(0))
    again = pickle.loads(pickle.dumps(masks))
    assert isinstance(again, PackedMasks)
    assert torch.equal(masks.dense(), again.dense())
    # a row may begin within a byte
    assert masks.bits.numel() <= sum((width // 8 + 2) * height for _, _, height, width in masks.rectangles.tolist())

    def read(_: int) -> tuple[Tensor, ...]:
        return masks.bits, masks.rectangles

    kept = KeptSamples(read)
    assert kept(0)[0] is kept(0)[0]
