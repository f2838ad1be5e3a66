"""The segmentation metrics against loops over pixels."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from eomt.metrics import SegmentationMetric
from eomt.utils.labels import IGNORE_INDEX

NUM_CLASSES = 5


def random_maps(seed: int, num_images: int = 3) -> tuple[Tensor, Tensor]:
    """Return predictions and masks `(B, 7, 9)`; class 4 occurs in predictions only, class 3 nowhere."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([0, 1, 2, 4])
    prediction = choices[torch.randint(0, 4, (num_images, 7, 9), generator=generator)]
    mask = torch.randint(0, 3, (num_images, 7, 9), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE_INDEX
    return prediction, mask


def brute_force(prediction: Tensor, mask: Tensor) -> dict[str, float | list[float]]:
    pixels = [
        (p, t) for p, t in zip(prediction.flatten().tolist(), mask.flatten().tolist(), strict=True) if t != IGNORE_INDEX
    ]
    class_iou, class_dice = [], []
    for c in range(NUM_CLASSES):
        predicted = {i for i, (p, _) in enumerate(pixels) if p == c}
        true = {i for i, (_, t) in enumerate(pixels) if t == c}
        class_iou.append(len(predicted & true) / len(predicted | true) if predicted | true else math.nan)
        class_dice.append(2 * len(predicted & true) / (len(predicted) + len(true)) if predicted | true else math.nan)
    occurring = [c for c in range(NUM_CLASSES) if not math.isnan(class_iou[c])]
    return {
        "iou": sum(class_iou[c] for c in occurring) / len(occurring),
        "dice": sum(class_dice[c] for c in occurring) / len(occurring),
        "accuracy": sum(p == t for p, t in pixels) / len(pixels),
        "class_iou": class_iou,
        "class_dice": class_dice,
    }


def assert_same(result: dict[str, Tensor], expected: dict) -> None:
    assert result.keys() == expected.keys()
    for name, value in result.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), equal_nan=True, atol=1e-6, rtol=0)


def measure(*batches: tuple[Tensor, Tensor]) -> SegmentationMetric:
    metric = SegmentationMetric(NUM_CLASSES)
    for prediction, mask in batches:
        metric.update(prediction, mask)
    return metric


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_brute_force(seed: int) -> None:
    maps = random_maps(seed)

    assert_same(measure(maps).compute(), brute_force(*maps))


def test_classes_that_do_not_occur_do_not_count() -> None:
    mask = torch.tensor([[[0, 0, 1, 1]]])

    result = measure((mask, mask)).compute()

    assert float(result["iou"]) == float(result["dice"]) == float(result["accuracy"]) == 1
    assert result["class_iou"].isnan().tolist() == result["class_dice"].isnan().tolist() == [False, False, *[True] * 3]


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_that_of_torchmetrics(seed: int) -> None:
    """15 F: a class that is predicted and never true counts as 0."""
    prediction, mask = random_maps(seed)
    arguments = {"num_classes": NUM_CLASSES, "ignore_index": IGNORE_INDEX}
    expected = multiclass_jaccard_index(prediction, mask, average="macro", **arguments)
    result = measure((prediction, mask)).compute()
    torch.testing.assert_close(result["iou"], expected)
    assert float(result["class_iou"][4]) == float(result["class_dice"][4]) == 0
    assert float(result["iou"]) == pytest.approx(float(result["class_iou"][:3].sum()) / 4)


def test_predictions_on_ignored_pixels_may_be_anything() -> None:
    prediction, mask = random_maps(0)
    changed = torch.where(mask == IGNORE_INDEX, IGNORE_INDEX, prediction)

    assert torch.equal(measure((changed, mask)).confusion, measure((prediction, mask)).confusion)


def test_batches_add_up() -> None:
    first, second = random_maps(0), random_maps(1, num_images=2)
    together = tuple(torch.cat(maps) for maps in zip(first, second, strict=True))

    assert_same(measure(first, second).compute(), brute_force(*together))


def test_ranks_add_up() -> None:
    first, second = random_maps(0), random_maps(1, num_images=2)
    together = tuple(torch.cat(maps) for maps in zip(first, second, strict=True))
    metric = measure(first)

    metric.merge_state(measure(second))  # reduces states the way ranks do

    assert metric.confusion.dtype == torch.int64
    assert_same(metric.compute(), brute_force(*together))


def test_nothing_evaluated_is_nan_without_a_warning() -> None:
    ignored = torch.full((1, 2, 2), IGNORE_INDEX)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in [measure(), measure((torch.zeros_like(ignored), ignored))]:
            assert all(value.isnan().all() for value in metric.compute().values())
