"""AP of masks against pycocotools' COCOeval."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from eomt.metrics import MaskAveragePrecision
from eomt.metrics.statistics import mean
from tests.ranks import on_two_ranks

NUM_CLASSES = 4
# masks, scores, labels, true masks, true labels, true crowds, and maybe true areas
Image = tuple[Tensor, ...]


def rectangles(random: np.random.Generator, number: int, size: tuple[int, int]) -> np.ndarray:
    """Return masks `(N, H, W)` of a few pixels up to the whole image."""
    masks = np.zeros((number, *size), dtype=bool)
    for mask in masks:
        height, width = (1 + int(length * random.random() ** 2) for length in size)
        top, left = random.integers(size[0] - height + 1), random.integers(size[1] - width + 1)
        mask[top : top + height, left : left + width] = True
    return masks


def random_image(random: np.random.Generator) -> Image:
    """Return true objects of all sizes, some crowds, and detections near to them or anywhere, with equal scores."""
    size = int(random.integers(8, 160)), int(random.integers(8, 160))
    true_masks = rectangles(random, random.integers(0, 7), size)
    true_labels = random.integers(0, NUM_CLASSES - 1, len(true_masks))
    masks, labels = rectangles(random, random.integers(0, 7), size), np.zeros(0, dtype=np.int64)
    labels = random.integers(0, NUM_CLASSES, len(masks))
    for _ in range(random.integers(0, 9) if len(true_masks) else 0):
        index = random.integers(len(true_masks))
        near = np.roll(true_masks[index], random.integers(-2, 3, 2), axis=(0, 1))
        masks, labels = np.concatenate([masks, near[None]]), np.append(labels, true_labels[index])
    scores = random.integers(0, 8, len(masks)) / 8
    crowd = random.random(len(true_masks)) < 0.2
    arrays = masks, scores, labels, true_masks, true_labels, crowd
    return tuple(torch.from_numpy(array) for array in arrays)


def run_lengths(mask: Tensor) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def by_pycocotools(images: list[Image], max_detections: int = 100) -> dict[str, Any]:
    """Return what COCOeval says."""
    sizes, truth, found = [], [], []
    for number, (masks, scores, labels, true_masks, true_labels, crowd, *areas) in enumerate(images, 1):
        pixels = true_masks.flatten(1).sum(1)
        stated = torch.where(areas[0].isnan(), pixels, areas[0]) if areas else pixels
        sizes.append({"id": number, "height": masks.shape[1], "width": masks.shape[2]})
        of_truth = zip(true_masks, true_labels.tolist(), crowd.tolist(), stated.tolist(), strict=True)
        for mask, label, is_crowd, area in of_truth:
            entry = {"id": len(truth) + 1, "image_id": number, "category_id": label + 1, "iscrowd": int(is_crowd)}
            truth.append(entry | {"segmentation": run_lengths(mask), "area": area})
        for mask, score, label in zip(masks, scores.tolist(), labels.tolist(), strict=True):
            entry = {"image_id": number, "category_id": label + 1, "score": score}
            found.append(entry | {"segmentation": run_lengths(mask)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": sizes,
            "categories": [{"id": number} for number in range(1, NUM_CLASSES + 1)],
            "annotations": truth,
        }
        coco.createIndex()
        detected = coco.loadRes(found) if found else COCO()
        evaluation = COCOeval(coco, detected, "segm")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # (T, R, C, S)
    precision = np.where(precision < 0, np.nan, precision)
    views = {"map": precision[..., 0], "ap50": precision[0, ..., 0], "ap75": precision[5, ..., 0]}
    views |= {f"ap_{name}": precision[..., size] for size, name in enumerate(("small", "medium", "large"), 1)}
    answer = {name: mean(view[~np.isnan(view)]) for name, view in views.items()}
    return {**answer, "class_ap": precision[..., 0].mean((0, 1))}


def by_us(images: list[Image], **options: Any) -> dict[str, Tensor]:
    metric = MaskAveragePrecision(NUM_CLASSES, **options)
    for image in images:
        metric.update(*image)
    return metric.compute()


def assert_same(images: list[Image], **options: Any) -> dict[str, Tensor]:
    result, expected = by_us(images, **options), by_pycocotools(images, **options)
    assert result.keys() == expected.keys()
    for name, value in result.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=0, atol=1e-12, err_msg=name)
    return result


def assert_same_on_random_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    result = assert_same([random_image(random) for _ in range(random.integers(1, 12))])
    assert torch.isnan(result["class_ap"][NUM_CLASSES - 1])  # detected, and never true


def test_random_images() -> None:
    for seed in range(30):
        assert_same_on_random_images(seed)


@pytest.mark.slow
def test_many_random_images() -> None:
    for seed in range(30, 630):
        assert_same_on_random_images(seed)


def image(found: list[tuple[slice, float]], true: list[tuple[slice, bool]]) -> Image:
    """Return an image of 1 x 100 pixels with objects of class 0."""
    masks, true_masks = torch.zeros(len(found), 1, 100).bool(), torch.zeros(len(true), 1, 100).bool()
    for mask, (columns, _) in zip(masks, found, strict=True):
        mask[:, columns] = True
    for mask, (columns, _) in zip(true_masks, true, strict=True):
        mask[:, columns] = True
    scores, crowd = (torch.tensor([value for _, value in rows]) for rows in (found, true))
    zeros = torch.zeros(len(found), dtype=torch.int64), torch.zeros(len(true), dtype=torch.int64)
    return masks, scores.double(), zeros[0], true_masks, zeros[1], crowd.bool()


@pytest.mark.parametrize(
    ("images", "ap50"),
    [
        ([image([(slice(0, 10), 0.5)], [(slice(0, 10), False)])], 1),
        # the second of two equal detections is false, behind all recall
        ([image([(slice(0, 10), 0.9), (slice(0, 10), 0.5)], [(slice(0, 10), False)])], 1),
        # a false detection before the right one halves precision
        ([image([(slice(50, 60), 0.9), (slice(0, 10), 0.5)], [(slice(0, 10), False)])], 0.5),
        # of equal scores the first image's comes first
        ([image([(slice(0, 9), 0.5)], []), image([(slice(0, 10), 0.5)], [(slice(0, 10), False)])], 0.5),
        ([image([(slice(0, 10), 0.5)], [(slice(0, 10), False)]), image([(slice(0, 9), 0.5)], [])], 1),
        # a crowd takes any number of detections, and none of them is false
        (
            [
                image(
                    [(slice(50, 60), 0.9), (slice(55, 65), 0.8), (slice(0, 10), 0.5)],
                    [(slice(0, 10), False), (slice(40, 99), True)],
                )
            ],
            1,
        ),
        # objects come before crowds, even where the crowd fits better
        ([image([(slice(0, 10), 0.5)], [(slice(0, 20), True), (slice(0, 8), False)])], 1),
        # true objects may overlap: the better one is taken, and of equal ones the last, so that the other stays free
        ([image([(slice(0, 10), 0.9), (slice(0, 8), 0.8)], [(slice(0, 10), False), (slice(0, 7), False)])], 1),
        (
            [image([(slice(0, 10), 0.9), (slice(4, 10), 0.8)], [(slice(0, 8), False), (slice(2, 10), False)])],
            0.504950495,
        ),
        ([image([(slice(0, 10), 0.9), (slice(4, 10), 0.8)], [(slice(2, 10), False), (slice(0, 8), False)])], 1),
        # nothing found, nothing true, crowds alone
        ([image([], [(slice(0, 10), False)])], 0),
        ([image([(slice(0, 10), 0.5)], [])], np.nan),
        ([image([(slice(0, 10), 0.5)], [(slice(0, 10), True)])], np.nan),
        ([image([], [])], np.nan),
        # IoU exactly at the threshold is enough
        ([image([(slice(0, 10), 0.5)], [(slice(0, 20), False)])], 1),
    ],
)
def test_cases(images: list[Image], ap50: float) -> None:
    np.testing.assert_allclose(assert_same(images)["ap50"], ap50)


@pytest.mark.parametrize(("width", "sizes"), [(1024, ["small", "medium"]), (96**2, ["medium", "large"])])
def test_limits_of_sizes_belong_to_both(width: int, sizes: list[str]) -> None:
    mask, one, zero = torch.ones(1, 1, width).bool(), torch.ones(1).double(), torch.zeros(1, dtype=torch.int64)
    result = assert_same([(mask, one, zero, mask, zero, zero.bool())])
    assert [name for name in ("small", "medium", "large") if result[f"ap_{name}"] == 1] == sizes


def test_areas_that_are_stated_tell_small_objects_from_large_ones() -> None:
    """Crowds have some, too; nan is the number of pixels."""
    differs = 0
    for seed in range(20):
        random = np.random.default_rng([seed, 7])
        images = [random_image(random) for _ in range(random.integers(1, 9))]
        areas = [torch.from_numpy(10 ** random.uniform(0, 4.5, len(one[3]))) for one in images]
        areas = [torch.where(torch.from_numpy(random.random(len(of)) < 0.2), torch.nan, of) for of in areas]
        found = assert_same([(*one, of) for one, of in zip(images, areas, strict=True)])
        counted = by_us(images)
        torch.testing.assert_close(found["map"], counted["map"], rtol=0, atol=0, equal_nan=True)
        differs += not torch.equal(found["ap_medium"], counted["ap_medium"])
    assert differs > 10


def test_most_detections_of_an_image_and_class() -> None:
    wrong = [(slice(50 + index, 60 + index), 0.9) for index in range(3)]
    images = [image([*wrong, (slice(0, 10), 0.5)], [(slice(0, 10), False)])]
    assert assert_same(images, max_detections=3)["ap50"] == 0
    assert assert_same(images, max_detections=4)["ap50"] == 0.25


def test_nothing_evaluated() -> None:
    assert all(torch.isnan(value).all() for value in by_us([]).values())


def test_two_processes_and_reset(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    images = [random_image(random) for _ in range(7)]

    def measure(rank: int) -> dict[str, Tensor]:
        metric = MaskAveragePrecision(NUM_CLASSES)
        metric.update(*images[0])
        metric.reset()
        for number in range(rank, len(images), 2):
            metric.update(*images[number])
        return metric.compute()

    for result in on_two_ranks(measure, tmp_path):
        torch.testing.assert_close(result, by_us(images), rtol=0, atol=0, equal_nan=True)


def test_a_process_without_images(tmp_path: Path) -> None:
    images = [random_image(np.random.default_rng(2))]
    for result in on_two_ranks(lambda rank: by_us(images if rank == 0 else []), tmp_path):
        torch.testing.assert_close(result, by_us(images), rtol=0, atol=0, equal_nan=True)


def test_what_is_kept_does_not_grow_with_pixels() -> None:
    metric = MaskAveragePrecision(NUM_CLASSES)
    masks = torch.ones(3, 500, 500).bool()
    metric.update(masks, torch.ones(3), torch.arange(3), masks, torch.arange(3), torch.zeros(3).bool())
    assert sum(rows.untyped_storage().nbytes() for rows in metric.detections) == 3 * 40
