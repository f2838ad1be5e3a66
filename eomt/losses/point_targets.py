"""Targets of the mask classification criterion, which exist only at points: of index maps, and of masks of objects."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eomt.errors import UserError, listed
from eomt.losses.point_sampling import labels_around, neighbors, shares_of
from eomt.utils.labels import IGNORE_INDEX
from eomt.utils.packed_masks import PackedMasks


class PointTargets(ABC):
    """The targets of B images, each a class and a binary mask whose values are asked for at points.

    What may be a target is known before its cost is computed; which of these candidates is one, the host learns with
    the costs.
    """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def candidates(self, image: int, num_classes: int) -> Tensor:
        """Return the class of each candidate of an image, int64 `(T,)`."""

    @abstractmethod
    def found(self, image: int) -> Tensor:
        """Return what the host must know of an image to tell its targets, one number for each of its entries."""

    @abstractmethod
    def chosen(self, found: Sequence[np.ndarray], num_classes: int) -> list[np.ndarray]:
        """Return which candidates of each image are targets, int64, in rising order.

        Args:
            found: What `found` returned of each image.
            num_classes: Number of classes.

        Raises:
            UserError: A label is no class.
        """

    @abstractmethod
    def supervised(self) -> Tensor:
        """Return whether each image says anything, bool `(B,)`."""

    @abstractmethod
    def around(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is around points `(B, P, 2)`, for `shares`: two tensors `(B, P, 4)`, the second of weights."""

    @abstractmethod
    def shares(self, image: int, around: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate masks of an image.

        Args:
            image: Its number.
            around: What `around` returned of all images.
            chosen: Which candidates, int64 `(T,)`.

        Returns:
            Share of each of them at each point, `(T, P)`, and share of each point that is not ignored, `(P,)`.
        """


class MapTargets(PointTargets):
    """The classes that are present in index maps, each a target of its image.

    Args:
        mask: int64 `(B, H, W)`, class ids, or 255 where ignored.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        present = torch.zeros(len(mask), IGNORE_INDEX + 1, dtype=torch.bool, device=mask.device)
        self.present = present.scatter_(1, mask.flatten(1), True)[:, :IGNORE_INDEX]  # (B, 255)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.mask.device

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.mask)

    def candidates(self, image: int, num_classes: int) -> Tensor:
        """Return every class."""
        return torch.arange(num_classes, device=self.device)

    def found(self, image: int) -> Tensor:
        """Return whether each label occurs, `(255,)`."""
        return self.present[image]

    def chosen(self, found: Sequence[np.ndarray], num_classes: int) -> list[np.ndarray]:
        """Return the classes that occur.

        Raises:
            UserError: A label is no class.
        """
        labels = [np.flatnonzero(of_image) for of_image in found]
        _check_labels("mask", labels, num_classes, f", or {IGNORE_INDEX} (ignored)")
        return labels

    def supervised(self) -> Tensor:
        """Return whether each image has a label."""
        return self.present.any(dim=1)

    def around(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels and weights of the pixels around points."""
        return labels_around(self.mask, points)

    def shares(self, image: int, around: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate the masks of classes, which ignored pixels take no part in."""
        labels, weight = around
        return shares_of(labels[image], weight[image], chosen)


class ObjectTargets(PointTargets):
    """Objects, which may overlap, each a target of its image; what no object covers is negative for all of them.

    Args:
        masks: B of N masks, packed or bool `(N, H, W)`, of one size; N may be 0.
        labels: B of int64 `(N,)`, class ids.
    """

    def __init__(self, masks: Sequence[Tensor | PackedMasks], labels: Sequence[Tensor]) -> None:
        self.masks, self.labels = [PackedMasks.of(of_image) for of_image in masks], labels

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.masks[0].bits.device

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.masks)

    def candidates(self, image: int, num_classes: int) -> Tensor:
        """Return the classes of the objects; `chosen` refuses what is none."""
        return self.labels[image].clamp(0, num_classes - 1)

    def found(self, image: int) -> Tensor:
        """Return the classes of the objects."""
        return self.labels[image]

    def chosen(self, found: Sequence[np.ndarray], num_classes: int) -> list[np.ndarray]:
        """Return all objects.

        Raises:
            UserError: A label is no class.
        """
        _check_labels("labels", found, num_classes)
        return [np.arange(len(of_image)) for of_image in found]

    def supervised(self) -> Tensor:
        """Return True for every image: one without objects says that there is none."""
        return torch.ones(len(self), dtype=torch.bool, device=self.device)

    def around(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return indices and weights of the pixels around points."""
        return neighbors(points, *self.masks[0].size)

    def shares(self, image: int, around: tuple[Tensor, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate the masks of all objects, which every point is evidence for or against."""
        index, weight = (part[image] for part in around)
        assert len(chosen) == len(self.masks[image])
        return self.masks[image].interpolated(index, weight), torch.ones_like(weight[:, 0])


def _check_labels(field: str, labels: Sequence[np.ndarray], num_classes: int, others: str = "") -> None:
    every = np.unique(np.concatenate(labels)).astype(int).tolist()
    if every and not 0 <= every[0] <= every[-1] < num_classes:
        raise UserError(
            f"{field}: labels [{listed(every)}] found; with num_classes {num_classes} they must be 0 to "
            f"{num_classes - 1}{others}"
        )
