"""Samples of faces."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from datamodules.common.orientation import Box, turned_box
from datamodules.common.random_changes import seeded, with_seed
from datamodules.common.reading import check_image, orientation_of, read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.faces.boxes import face_window
from datamodules.faces.folders import BONA_FIDE, Face
from datamodules.faces.transforms import MorphTransform, PretrainingTransform
from eomt.errors import UserError

# patches of the usual networks
LEAST_SIDE = 16


def check_face(face: Face) -> tuple[int, int]:
    """Return an image's (height, width).

    Raises:
        UserError: The file is damaged, is of a kind that cannot be converted to RGB, is smaller than a patch, or its
            box leaves it.
    """
    height, width = check_image(face.image)
    left, top, right, bottom = _turned_box(face, (height, width)) or (0, 0, width, height)
    # a detector may see a face's edge beyond the image's
    right, bottom, left, top = min(right, width), min(bottom, height), max(left, 0), max(top, 0)
    _refuse_small(face, (bottom - top, right - left), (height, width))
    return height, width


def _refuse_small(face: Face, shown: tuple[int, int], size: tuple[int, int]) -> None:
    if min(shown) < LEAST_SIDE:
        what = "image" if face.box is None else f"face box in an image of {size[0]} x {size[1]}"
        raise UserError(
            f"{face.image}: {what} of {max(0, shown[0])} x {max(0, shown[1])} (height x width); must be at "
            f"least {LEAST_SIDE} pixels each way, a patch"
        )


def _turned_box(face: Face, size: tuple[int, int]) -> Box | None:
    """Return the box of a face in its turned image: detectors find it in the pixels of the file."""
    return None if face.box is None else turned_box(face.box, size, orientation_of(face.image))


def read_window(face: Face, size: tuple[int, int]) -> Tensor:
    """Return the part of an image that is shown at `size`, not yet resized, (3, H, W) uint8 RGB."""
    image = read_pixels(face.image)
    shape = (image.shape[-2], image.shape[-1])
    left, top, right, bottom = face_window(shape, _turned_box(face, shape), size)
    return image[:, top:bottom, left:right]


def read_face(face: Face, size: tuple[int, int]) -> Tensor:
    """Return a face at `size`, (3, *size) uint8 RGB."""
    return F.resize(read_window(face, size), list(size), antialias=True)


def _read_to_evaluate(face: Face, size: tuple[int, int]) -> Tensor:
    """Return a face at `size`; images to predict have not been looked at before.

    Raises:
        UserError: The file is damaged, or the image is smaller than a patch.
    """
    window = read_window(face, size)
    _refuse_small(face, (window.shape[-2], window.shape[-1]), (window.shape[-2], window.shape[-1]))
    return F.resize(window, list(size), antialias=True)


def _described(face: Face) -> dict[str, Any]:
    return {
        "label": torch.tensor(face.label),
        "path": str(face.image),
        "attack": face.attack,
        "dataset": face.dataset,
        "name": face.name,
    }


def blank_face(size: tuple[int, int], labeled: bool) -> dict[str, Any]:
    """Return a sample without a name, as `FaceDataset` (labeled) or `UnlabeledFaces` gives them."""
    blank: dict[str, Any] = {"image": torch.zeros(3, *size, dtype=torch.uint8), "path": "", "name": ""}
    return blank | ({"label": torch.tensor(BONA_FIDE), "attack": "", "dataset": ""} if labeled else {})


def interleaved(faces: Sequence[Face]) -> list[Face]:
    """Return faces in an order whose every part has bona fide images and attacks of each data set as the whole has.

    So an evaluation that is limited to some batches sees both classes.
    """
    groups: dict[tuple[str, str], list[Face]] = {}
    for face in faces:
        groups.setdefault((face.dataset, face.attack), []).append(face)
    placed = [
        ((place + 0.5) / len(group), number, face)
        for number, group in enumerate(groups.values())
        for place, face in enumerate(group)
    ]
    return [face for *_, face in sorted(placed, key=lambda item: item[:2])]


class _Faces(Dataset[dict[str, Any]]):
    """Faces at one size.

    Args:
        faces: The files.
        size: Height and width of the images.
    """

    def __init__(self, faces: Sequence[Face], size: tuple[int, int]) -> None:
        self.faces = faces
        self.size = size

    def __len__(self) -> int:
        return len(self.faces)


class FaceDataset(_Faces):
    """Faces for evaluation.

    A sample holds `image` (3, *size) uint8 RGB, `label` int64 (1 = morph), `path`, `attack` ("" for bona fide),
    `dataset` and `name`. `PADDING_INDEX` gives the first image as bona fide with an empty name.

    Args:
        faces: The files.
        size: Height and width of the images.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        face = self.faces[max(index, 0)]
        described = _described(face)
        if index == PADDING_INDEX:
            described |= {"label": torch.tensor(BONA_FIDE), "attack": "", "name": ""}
        return {"image": _read_to_evaluate(face, self.size), **described}


class AugmentedFaces(_Faces):
    """Faces for training, decoded once each, see `KeptSamples`. Samples are those of `FaceDataset`.

    An index comes with the seed of its changes.

    Args:
        faces: The files.
        size: Height and width of the images.
        transform: The changes; None for none.
    """

    def __init__(self, faces: Sequence[Face], size: tuple[int, int], transform: MorphTransform | None) -> None:
        super().__init__(faces, size)
        self.transform = transform
        self.read = KeptSamples(self._decode)

    def _decode(self, position: int) -> tuple[Tensor]:
        return (read_face(self.faces[position], self.size),)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        position, seed = with_seed(index)
        (image,) = self.read(position)
        if self.transform is not None:
            image = seeded(self.transform, image, seed)
        return {"image": image, **_described(self.faces[position])}


class UnlabeledFaces(_Faces):
    """Faces alone: `image` (3, *size) uint8 RGB, `path` and `name`; `PADDING_INDEX` gives the first without a name.

    For training they are decoded once each, see `KeptSamples`.

    Args:
        faces: The files; labels are not looked at.
        size: Height and width of the images.
        transform: Random changes for training, where an index comes with their seed; None for evaluation.
    """

    def __init__(self, faces: Sequence[Face], size: tuple[int, int], transform: PretrainingTransform | None) -> None:
        super().__init__(faces, size)
        self.transform = transform
        self.read = KeptSamples(self._decode)

    def _decode(self, position: int) -> tuple[Tensor]:
        return (read_window(self.faces[position], self.size),)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        position, seed = with_seed(index)
        face = self.faces[max(position, 0)]
        if self.transform is None:
            image = _read_to_evaluate(face, self.size)
        else:
            image = seeded(self.transform, *self.read(position), seed)
        return {"image": image, "path": str(face.image), "name": "" if position == PADDING_INDEX else face.name}
