"""The metrics of prompted objects against loops over pixels, in any order, batch and number of processes."""

import math
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eomt.metrics import PromptedSegmentationMetric
from tests.ranks import on_two_ranks

CLASS_NAMES = {1: "pitted", 2: "inclusion", 4: "scratch", 7: "never seen"}
Image = tuple[str, list[int], Tensor, Tensor]  # name, class ids, prediction and target (N, H, W)


def make_images(seed: int = 0, num_images: int = 12) -> list[Image]:
    """Return images of different sizes with 0 to 3 pairs; some predictions and some targets are empty, some both."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for index in range(num_images):
        class_ids = torch.tensor([1, 2, 4])[torch.randperm(3, generator=generator)[: index % 4]].tolist()
        shape = (len(class_ids), 6 + index % 3, 9)
        prediction, target = (torch.rand(shape, generator=generator) < 0.3 for _ in range(2))
        for place in range(len(class_ids)):
            prediction[place] &= bool((index + place) % 4)
            target[place] &= bool((index + place) % 5)
        images.append((f"folder/{index}.jpg", class_ids, prediction, target))
    return images


def measure(images: list[Image], metric: PromptedSegmentationMetric | None = None) -> PromptedSegmentationMetric:
    metric = metric or PromptedSegmentationMetric(CLASS_NAMES)
    for name, class_ids, prediction, target in images:
        metric.update(prediction, target, name, class_ids)
    return metric


def mean(values: list[float]) -> float:
    values = [value for value in values if not math.isnan(value)]
    return fmean(values) if values else math.nan


def ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def brute_force(images: list[Image]) -> dict[str, float]:
    """Return every figure but the intervals."""
    pairs = []
    for name, class_ids, predictions, targets in images:
        for class_id, prediction, target in zip(class_ids, predictions.flatten(1), targets.flatten(1), strict=True):
            p = {i for i, value in enumerate(prediction.tolist()) if value}
            t = {i for i, value in enumerate(target.tolist()) if value}
            pairs.append((name, class_id, p, t))
    objects = [pair for pair in pairs if pair[3]]

    def pooled(chosen: list) -> tuple[float, float]:
        intersection, union = sum(len(p & t) for *_, p, t in chosen), sum(len(p | t) for *_, p, t in chosen)
        return ratio(intersection, union), ratio(2 * intersection, union + intersection)

    def iou(pair: tuple) -> float:
        return ratio(len(pair[2] & pair[3]), len(pair[2] | pair[3]))

    def dice(pair: tuple) -> float:
        return ratio(2 * len(pair[2] & pair[3]), len(pair[2]) + len(pair[3]))

    figures = {}
    for kind, score in (("iou", iou), ("dice", dice)):
        figures[kind] = mean([mean([score(o) for o in objects if o[0] == name]) for name, *_ in images])
        for class_id, class_name in CLASS_NAMES.items():
            figures[f"{kind}_class_{class_name}"] = mean([score(o) for o in objects if o[1] == class_id])
    figures["pooled_iou"], figures["pooled_dice"] = pooled(pairs)
    for class_id, class_name in CLASS_NAMES.items():
        occurs = any(o[1] == class_id for o in objects)
        of_class = pooled([pair for pair in pairs if pair[1] == class_id]) if occurs else (math.nan, math.nan)
        figures[f"pooled_iou_class_{class_name}"], figures[f"pooled_dice_class_{class_name}"] = of_class
    for kind in ("iou", "dice", "pooled_iou", "pooled_dice"):
        figures[f"macro_{kind}"] = mean([figures[f"{kind}_class_{name}"] for name in CLASS_NAMES.values()])

    every_dice, every_empty = [], []
    for name, *_ in images:
        for class_id in CLASS_NAMES:
            given = [pair for pair in pairs if pair[:2] == (name, class_id)]
            predicted, true = (sum(len(pair[k]) for pair in given) for k in (2, 3))
            both = sum(len(pair[2] & pair[3]) for pair in given)
            every_dice.append(2 * both / (predicted + true) if predicted or true else 1.0)
            every_empty.append(0.0 if true else 1.0)
    figures["kaggle_dice"], figures["kaggle_dice_all_empty"] = mean(every_dice), mean(every_empty)
    return figures | {"n_evaluated": len(objects), "n_images": len(images), "n_skipped": 0}


def assert_equal(first: dict[str, float], second: dict[str, float]) -> None:
    """Demand the same numbers, to the last digit, with nan for nan."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value == second[name] or (math.isnan(value) and math.isnan(second[name])), name


@pytest.mark.parametrize("repeated", [False, True], ids=["a class once", "several objects of a class"])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_brute_force(seed: int, repeated: bool) -> None:
    images = make_images(seed)
    if repeated:
        images = [(name, [min(class_id, 4) // 4 * 3 + 1 for class_id in ids], *masks) for name, ids, *masks in images]

    figures = measure(images).compute()

    expected = brute_force(images)
    intervals = {f"{kind}_{end}" for kind in ("iou", "dice") for end in ("low", "high")}
    assert figures.keys() == expected.keys() | intervals
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


def test_the_figures_are_plain_floats() -> None:
    assert {type(value) for value in measure(make_images()).compute().values()} == {float}


def test_figures_do_not_depend_on_the_order() -> None:
    images = make_images()
    backwards = [(name, ids[::-1], p.flip(0), t.flip(0)) for name, ids, p, t in reversed(images)]

    assert_equal(measure(backwards).compute(), measure(images).compute())


def test_repeated_images_count_once_and_nameless_ones_not_at_all() -> None:
    images = make_images()
    filled = images + images[2:5] + [("", *image[1:]) for image in images[5:8]]

    assert_equal(measure(filled).compute(), measure(images).compute())


def test_a_repeated_image_with_other_counts_gives_the_same_figures_in_either_order() -> None:
    images, others = make_images(), make_images(seed=1)
    changed = [(name, ids, p, t) for (name, ids, _, t), (_, _, p, _) in zip(images, others, strict=True)]

    assert_equal(measure(images + changed).compute(), measure(changed + images).compute())


def test_an_empty_prediction_of_an_object_scores_nothing_and_a_pixel_is_an_object() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, 1, 2] = True

    missed = measure([("a", [1], torch.zeros_like(target), target)]).compute()
    hit = measure([("a", [1], target, target)]).compute()

    assert missed["iou"] == missed["dice"] == missed["pooled_iou"] == missed["iou_class_pitted"] == 0
    assert missed["kaggle_dice"] == missed["kaggle_dice_all_empty"] == 0.75
    assert hit["iou"] == hit["pooled_dice"] == hit["kaggle_dice"] == hit["n_evaluated"] == 1


def test_false_alarm_lowers_pooled_figures_and_kaggle_dice_but_is_no_object() -> None:
    everything = torch.ones(1, 2, 2, dtype=torch.bool)
    right, alarm = ("a", [1], everything, everything), ("b", [2], everything, ~everything)

    figures = measure([right, alarm]).compute()

    assert (figures["iou"], figures["n_evaluated"], figures["n_images"]) == (1, 1, 2)
    assert figures["pooled_iou"] == 0.5
    assert (figures["kaggle_dice"], figures["kaggle_dice_all_empty"]) == (7 / 8, 7 / 8)
    assert math.isnan(figures["pooled_iou_class_inclusion"])


def test_interval_is_that_of_means_over_images_and_follows_the_seed() -> None:
    images = make_images(num_images=40)
    figures = measure(images).compute()
    again = measure(images).compute()
    other = measure(images, PromptedSegmentationMetric(CLASS_NAMES, seed=1)).compute()

    assert figures["iou_low"] < figures["iou"] < figures["iou_high"]
    # for means of many images the bootstrap agrees with the normal approximation
    values = [brute_force([image])["iou"] for image in images]
    values = [value for value in values if not math.isnan(value)]
    half = 1.96 * float(np.std(values)) / math.sqrt(len(values))
    assert (figures["iou_high"] - figures["iou_low"]) / 2 == pytest.approx(half, rel=0.1)
    assert_equal(again, figures)
    assert other["iou_low"] != figures["iou_low"]


@pytest.mark.parametrize("right", [True, False])
def test_only_perfect_or_only_empty_masks_have_exact_limits(right: bool) -> None:
    """15.14: a bootstrap of equal values says [1, 1] or [0, 0], however few they are."""
    hit = torch.ones(1, 2, 2, dtype=torch.bool)
    figures = measure([(str(index), [1], hit if right else ~hit, hit) for index in range(10)]).compute()
    tail = 0.025 ** (1 / 10)
    assert (figures["iou_low"], figures["iou_high"]) == pytest.approx((tail, 1) if right else (0, 1 - tail))


def test_objects_of_an_image_are_drawn_together() -> None:
    hit = torch.ones(2, 2, 2, dtype=torch.bool)
    half = hit & torch.tensor([True, False])[:, None, None]  # one object of each image is right, one is missed

    figures = measure([(str(index), [1, 2], half, hit) for index in range(10)]).compute()

    assert figures["iou_low"] == figures["iou"] == figures["iou_high"] == 0.5


def test_nothing_evaluated_is_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = PromptedSegmentationMetric(CLASS_NAMES).compute()

    assert {name for name, value in figures.items() if value == 0} == {"n_evaluated", "n_images", "n_skipped"}
    assert sum(map(math.isnan, figures.values())) == len(figures) - 3


def test_reset_forgets() -> None:
    metric = measure(make_images(seed=1))
    metric.compute()
    metric.reset()

    assert_equal(metric.compute(), PromptedSegmentationMetric(CLASS_NAMES).compute())
    assert_equal(measure(make_images(), metric).compute(), measure(make_images()).compute())


def figures_of(rank: int) -> list[Any]:
    """Return what rank sees together with the other: first its every second image, then nothing new on rank 1."""
    images = make_images(num_images=11)
    # the sampler fills up rank 1, as Lightning's does: once by a repeated image, once by one without a name
    filling = [images[0], ("", *images[1][1:])] if rank else []
    shared = measure(images[rank::2] + filling).compute()
    alone = measure([] if rank else images).compute()
    return [shared, alone]


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    expected = measure(make_images(num_images=11)).compute()
    for found in on_two_ranks(figures_of, tmp_path):
        for figures in found:
            assert_equal(figures, expected)
