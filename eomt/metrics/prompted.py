"""Metrics of prompted objects, from pixel counts per object that do not depend on batches or processes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eomt.metrics.row_metric import RowMetric
from eomt.metrics.statistics import bootstrap_interval, mean

# class of a row that counts no object: the image was evaluated
IMAGE = -1


class PixelCounts(NamedTuple):
    """Pixels of an object in an image: `intersection` both predicted and true."""

    image: int  # hash of its name
    class_id: int
    number: int  # among the image's objects of the class
    intersection: int
    predicted: int
    true: int


class PromptedSegmentationMetric(RowMetric[PixelCounts]):
    """IoU and Dice of predicted masks of objects; most often an object is a class that occurs in an image.

    An object has I pixels that are both predicted and true, P predicted and T true ones. Then IoU = I / (P + T - I) and
    Dice = 2 I / (P + T). An empty prediction of an object scores 0. A pair of an image and a class that is not given to
    `update` has neither predicted nor true pixels. An image may show several objects of a class: means over a class are
    over all of them then, and Kaggle's Dice is that of the sums of their pixels.

    What happens in each image weighs the same whatever its size, except where figures are called pooled: there pixels
    are summed before they are divided. Nothing is skipped: small objects count like others, and so do objects without
    a prediction. Only a pair without true pixels is no object: a prediction there (P > 0) is no part of the means over
    objects, but its pixels are part of the pooled figures, and its Kaggle Dice is 0.

    An image given twice counts once, and an image without a name (one that only fills up the last step of a
    process) not at all. Figures are sums in float64 in an order of their own: the same for 1 or 2 processes, in any
    order, to the last digit.
    """

    def __init__(self, class_names: Mapping[int, str], seed: int = 0) -> None:
        """Set up the metric.

        Args:
            class_names: Names of the classes that are evaluated, by their ids (0 or more); without a background.
            seed: Of the bootstrap.
        """
        super().__init__()
        self.class_names = dict(class_names)
        self.seed = seed

    @staticmethod
    def key(row: PixelCounts) -> tuple[int, int, int]:
        """Return image, class and number."""
        return row.image, row.class_id, row.number

    def update(self, prediction: Tensor, target: Tensor, name: str, class_ids: Sequence[int]) -> None:
        """Count the pixels of one image, at its original size.

        Args:
            prediction: Predicted masks, bool `(N, H, W)`.
            target: True masks, bool `(N, H, W)`. Images without any object belong here too, with N = 0.
            name: The image's name; without one, nothing is counted.
            class_ids: N ids of `class_names`.
        """
        if not name:
            return
        assert prediction.dtype == target.dtype == torch.bool
        assert prediction.shape == target.shape
        assert len(class_ids) == len(target)
        assert self.class_names.keys() >= set(class_ids), f"{class_ids} are not all among {list(self.class_names)}"
        image = name_hash(name)
        counts = torch.stack([mask.sum(dim=(-2, -1)) for mask in (prediction & target, prediction, target)], dim=1)
        self.rows.append(PixelCounts(image, IMAGE, 0, 0, 0, 0))
        numbers = [list(class_ids[:index]).count(class_id) for index, class_id in enumerate(class_ids)]
        self.rows += [PixelCounts(image, *row) for row in zip(class_ids, numbers, *counts.T.tolist(), strict=True)]

    def compute(self) -> dict[str, float]:
        """Return the figures of everything counted so far, in all processes.

        Returns:
            `iou`, `dice`: means over the images with objects of the mean over an image's objects. `iou_low`,
            `iou_high`, `dice_low`, `dice_high`: their 95 % intervals, by the percentiles of means over as many images
            drawn with replacement, with exact limits where all are 0 or all are 1. `pooled_iou`, `pooled_dice`: of the
            sums of pixels. `iou_class_<name>`, `dice_class_<name>`: means over the class's objects;
            `pooled_iou_class_<name>`, `pooled_dice_class_<name>`: of the class's sums of pixels. `macro_iou`,
            `macro_dice`, `macro_pooled_iou`, `macro_pooled_dice`: means of these over the classes that occur.
            `kaggle_dice`: mean Dice over all pairs of an image and a class, 1 where nothing is true and nothing
            predicted; `kaggle_dice_all_empty`: what it is if nothing is ever predicted. `n_evaluated`: number of
            objects. `n_images`: number of images, with and without objects. `n_skipped`: objects left out, which is
            always 0.

            nan where there is nothing to average: classes that do not occur, and all but the numbers if nothing was
            evaluated.
        """
        rows = np.array(self.collected(), dtype=np.int64).reshape(-1, len(PixelCounts._fields))
        found = rows[rows[:, 1] != IMAGE]
        objects = found[found[:, 5] > 0]
        num_images = len(rows) - len(found)

        object_iou, object_dice = scores(objects)
        image = np.unique(objects[:, 0], return_inverse=True)[1]
        objects_of = np.bincount(image)
        image_iou = np.bincount(image, weights=object_iou) / objects_of
        image_dice = np.bincount(image, weights=object_dice) / objects_of
        figures = {"iou": mean(image_iou), "dice": mean(image_dice)}
        figures["iou_low"], figures["iou_high"] = bootstrap_interval(image_iou, self.seed)
        figures["dice_low"], figures["dice_high"] = bootstrap_interval(image_dice, self.seed)
        figures["pooled_iou"], figures["pooled_dice"] = pooled_scores(found)

        kinds = ("iou", "dice", "pooled_iou", "pooled_dice")
        for class_id, class_name in self.class_names.items():
            of_class = objects[:, 1] == class_id
            pooled = pooled_scores(found[found[:, 1] == class_id]) if of_class.any() else (np.nan, np.nan)
            values = (mean(object_iou[of_class]), mean(object_dice[of_class]), *pooled)
            figures |= {f"{kind}_class_{class_name}": value for kind, value in zip(kinds, values, strict=True)}
        for kind in kinds:
            of_classes = np.array([figures[f"{kind}_class_{name}"] for name in self.class_names.values()])
            figures[f"macro_{kind}"] = mean(of_classes[~np.isnan(of_classes)])

        num_pairs = num_images * len(self.class_names)
        pairs = summed_by_class(found)
        pair_dice = scores(pairs)[1]
        figures["kaggle_dice"] = (pair_dice.sum() + num_pairs - len(pairs)) / num_pairs if num_pairs else np.nan
        figures["kaggle_dice_all_empty"] = (num_pairs - (pairs[:, 5] > 0).sum()) / num_pairs if num_pairs else np.nan
        figures |= {"n_evaluated": len(objects), "n_images": num_images, "n_skipped": 0}
        return {name: float(value) for name, value in figures.items()}


def name_hash(name: str) -> int:
    """Return 64 bits of a name as a signed number."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def summed_by_class(rows: np.ndarray) -> np.ndarray:
    """Return the sums of the pixels of each pair of an image and a class, of rows `(K, 6)`."""
    pairs, pair_of = np.unique(rows[:, :2], axis=0, return_inverse=True)
    summed = np.zeros((len(pairs), rows.shape[1]), dtype=np.int64)
    summed[:, :2] = pairs
    np.add.at(summed[:, 3:], pair_of.reshape(-1), rows[:, 3:])
    return summed


def scores(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and Dice, float64 `(K,)`, of rows `(K, 6)`; 1 where nothing is true and nothing predicted."""
    intersection, predicted, true = rows[:, 3:].T.astype(np.float64)
    total = predicted + true
    empty = total == 0
    return (intersection + empty) / (total - intersection + empty), (2 * intersection + empty) / (total + empty)


def pooled_scores(rows: np.ndarray) -> tuple[float, float]:
    """Return IoU and Dice of the sums of rows `(K, 6)`; nan if nothing is true and nothing predicted."""
    summed = rows.sum(axis=0, keepdims=True)
    if not summed[0, 4:].any():
        return np.nan, np.nan
    iou, dice = scores(summed)
    return float(iou[0]), float(dice[0])
