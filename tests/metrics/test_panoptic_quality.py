"""Panoptic quality against figures of panopticapi, and against torchmetrics where both count alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.detection import panoptic_quality

from eomt.metrics import PanopticQuality
from tests.ranks import on_two_ranks

NUM_CLASSES = 5
STUFF = [3, 4]
SIZE = 24
# what pq_compute of panopticapi (commit 7bb4655) says of the images of each seed
REFERENCE = json.loads((Path(__file__).parent / "panoptic_quality.json").read_text())
# map of segments, their classes, true masks, their classes, which are crowds
Image = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def random_segments(random: np.random.RandomState, first: np.ndarray, number: int) -> np.ndarray:
    """Return a map `(H, W)` with rectangles painted over a first one, numbered on from its largest number."""
    segments = first.copy()
    for index in range(number):
        top, left = random.randint(0, SIZE - 2, 2)
        height, width = random.randint(2, 16, 2)
        segments[top : top + height, left : left + width] = first.max() + 1 + index
    return segments


def random_image(random: np.random.RandomState) -> Image:
    """Return segments with crowds and void, and a prediction that is wrong here and there."""
    true = random_segments(random, np.zeros((SIZE, SIZE), dtype=np.int64), random.randint(0, 9))
    true_masks = true == np.unique(true[true > 0])[:, None, None]
    true_labels = random.randint(0, NUM_CLASSES - 1, len(true_masks))
    crowd = (random.rand(len(true_masks)) < 0.25) & (true_labels < 2)

    predicted = np.roll(true, random.randint(-1, 2, 2), axis=(0, 1)) * (random.rand() < 0.9)
    predicted = random_segments(random, predicted, random.randint(0, 4))
    present, numbers = np.unique(np.append(0, predicted), return_inverse=True)
    predicted = numbers[1:].reshape(SIZE, SIZE)
    labels = random.randint(0, NUM_CLASSES - 1, len(present) - 1)
    for segment, truth in enumerate(np.unique(true[true > 0])):
        is_it = np.flatnonzero(present[1:] == truth)
        labels[is_it] = np.where(random.rand(len(is_it)) < 0.8, true_labels[segment], labels[is_it])
    arrays = predicted, labels, true_masks, true_labels, crowd
    return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]


def images_of(seed: int) -> list[Image]:
    """Return a few images; the numbers of this generator are the same in every version of numpy."""
    random = np.random.RandomState(seed)
    return [random_image(random) for _ in range(random.randint(1, 6))]


def measure(images: list[Image]) -> PanopticQuality:
    metric = PanopticQuality(NUM_CLASSES, STUFF)
    for image in images:
        metric.update(*image)
    return metric


@pytest.mark.parametrize("seed", range(len(REFERENCE)))
def test_equals_panopticapi(seed: int) -> None:
    metric = measure(images_of(seed))
    expected = REFERENCE[seed]
    assert metric.counts.tolist() == expected["counts"]
    for name, value in metric.compute().items():
        target = np.array(expected[name], dtype=float)  # null is nan
        np.testing.assert_allclose(value.numpy(), target, rtol=0, atol=1e-12, err_msg=name)


def test_equals_torchmetrics_where_all_is_known() -> None:
    """torchmetrics knows no crowds, tells stuff by class alone, and leaves void out in another way."""
    random = np.random.RandomState(0)
    true, predicted = (np.repeat(np.repeat(random.randint(0, 4, (12, 12)), 3, 0), 3, 1) for _ in range(2))
    predicted = np.where(random.rand(36, 36) < 0.8, true, predicted)
    segments = np.stack([true, np.zeros_like(true)], -1), np.stack([predicted, np.zeros_like(true)], -1)
    theirs = panoptic_quality(
        torch.from_numpy(segments[1])[None], torch.from_numpy(segments[0])[None], things={0, 1}, stuffs={2, 3}
    )
    metric = PanopticQuality(4, [2, 3])
    classes = torch.arange(4)
    masks = torch.from_numpy(true == np.arange(4)[:, None, None])
    metric.update(torch.from_numpy(predicted) + 1, classes, masks, classes, torch.zeros(4).bool())
    assert metric.compute()["pq"].item() == pytest.approx(theirs.item(), abs=1e-6)


def strip(*lengths: tuple[int, int]) -> Tensor:
    """Return a map `(1, W)` of numbers, each so many pixels long."""
    return torch.tensor([[number for number, length in lengths for _ in range(length)]])


def masks_of(segments: Tensor) -> Tensor:
    return segments == torch.arange(1, int(segments.max()) + 1)[:, None, None]


@pytest.mark.parametrize(
    ("predicted", "true", "crowd", "counts"),
    [
        (strip((1, 10)), strip((1, 10)), [False], [1, 0, 0]),
        # half is not enough
        (strip((1, 5), (0, 5)), strip((1, 10)), [False], [0, 1, 1]),
        (strip((1, 6), (0, 4)), strip((1, 10)), [False], [1, 0, 0]),
        # void leaves the union
        (strip((1, 10)), strip((0, 5), (1, 5)), [False], [1, 0, 0]),
        # more than half in void, and half of it, beside an object
        (strip((1, 10), (0, 9)), strip((0, 6), (1, 13)), [False], [0, 0, 1]),
        (strip((1, 10), (0, 9)), strip((0, 5), (1, 14)), [False], [0, 1, 1]),
        # a crowd is as void, and never matched or missed
        (strip((1, 10), (0, 4)), strip((1, 14)), [True], [0, 0, 0]),
        (strip((0, 14)), strip((1, 14)), [True], [0, 0, 0]),
    ],
)
def test_cases(predicted: Tensor, true: Tensor, crowd: list[bool], counts: list[int]) -> None:
    metric = PanopticQuality(1, [])
    zeros = torch.zeros(len(crowd), dtype=torch.int64)
    metric.update(predicted, [0] * int(predicted.max()), masks_of(true), zeros, torch.tensor(crowd))
    assert metric.counts.tolist() == [counts]


def test_a_segment_without_pixels_does_not_count() -> None:
    metric = PanopticQuality(2, [])
    metric.update(strip((2, 3)), [0, 1], masks_of(strip((1, 3))), torch.tensor([1]), torch.tensor([False]))
    assert metric.counts.tolist() == [[0, 0, 0], [1, 0, 0]]


def test_nothing_evaluated() -> None:
    assert all(torch.isnan(value).all() for value in measure([]).compute().values())


def test_two_processes(tmp_path: Path) -> None:
    images = images_of(3) + images_of(4)
    for result in on_two_ranks(lambda rank: measure(images[rank::2]).compute(), tmp_path):
        torch.testing.assert_close(result, measure(images).compute(), rtol=0, atol=1e-12, equal_nan=True)
