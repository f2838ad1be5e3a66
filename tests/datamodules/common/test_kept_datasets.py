"""Training data sets that keep what they decoded give what those give that decode everything anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common import kept
from datamodules.common.pairs import Pair
from datamodules.defects.annotations import MaskFile
from datamodules.faces.dataset import AugmentedFaces, UnlabeledFaces
from datamodules.faces.folders import Face
from datamodules.faces.transforms import MorphTransform, PretrainingTransform
from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.prompted import AugmentedPromptableDataset
from datamodules.segmentation.image_mask_dataset import AugmentedDataset, ImageMaskDataset
from datamodules.segmentation.labels import LabelTable
from datamodules.segmentation.outlier_exposure import OutlierPaste
from datamodules.segmentation.transforms import TrainTransform
from tests.datamodules.common.image_files import HEIGHT, WIDTH, make_mask, write_pair

SIZE = (HEIGHT, WIDTH)
NUMBER = 3


def pairs(folder: Path) -> list[Pair]:
    for index in range(NUMBER):
        write_pair(folder, f"{index}.png", make_mask(3, index))
    return [Pair(f"{i}.png", folder / "images" / f"{i}.png", folder / "masks" / f"{i}.png") for i in range(NUMBER)]


def scenes(folder: Path, scales: tuple[float, float], changes: bool, outliers: bool = False) -> AugmentedDataset:
    transform = TrainTransform(SIZE, scales, flip=changes, color_jitter=changes)
    paste = None
    if outliers:
        (folder / "cut").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 4), 200, dtype=np.uint8)).save(folder / "cut" / "outlier.png")
        paste = OutlierPaste(folder / "cut", 1.0)
    return AugmentedDataset(ImageMaskDataset(pairs(folder), LabelTable(3, None, [255]), None), transform, paste)


def defects(folder: Path, augment: bool) -> AugmentedPromptableDataset:
    images = [
        AnnotatedImage(pair.name, Path(str(pair.image)), frozenset({0, 1}), MaskFile(pair, 2)) for pair in pairs(folder)
    ]
    return AugmentedPromptableDataset(images, SIZE, augment, augment, "class")


def faces(folder: Path) -> list[Face]:
    return [Face(pair.name, Path(str(pair.image)), 0) for pair in pairs(folder)]


DATASETS: dict[str, Callable[[Path], Any]] = {
    "scenes, cut alone": lambda folder: scenes(folder, (1.0, 1.0), changes=False),
    "scenes, changed": lambda folder: scenes(folder, (0.5, 2.0), changes=True),
    "scenes with outliers": lambda folder: scenes(folder, (1.0, 1.0), changes=False, outliers=True),
    "defects, as they are": lambda folder: defects(folder, augment=False),
    "defects, changed": lambda folder: defects(folder, augment=True),
    "faces, as they are": lambda folder: AugmentedFaces(faces(folder), SIZE, None),
    "faces, changed": lambda folder: AugmentedFaces(faces(folder), SIZE, MorphTransform()),
    "faces to pre-train on": lambda folder: UnlabeledFaces(faces(folder), SIZE, PretrainingTransform(SIZE)),
}


def epochs(dataset: Any) -> list[dict[str, Any]]:
    """Return the samples of three epochs, each with seeds of its own."""
    return [dataset[(index, 10 * epoch + index)] for epoch in range(3) for index in range(NUMBER)]


@pytest.mark.parametrize("name", DATASETS)
def test_kept_samples_are_those_that_are_decoded_anew(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = DATASETS[name](tmp_path)
    read, reads = dataset.read.read, []

    def counted(position: int) -> tuple[torch.Tensor, ...]:
        reads.append(position)
        return read(position)

    monkeypatch.setattr(dataset.read, "read", counted)
    samples = epochs(dataset)
    assert sorted(reads) == list(range(NUMBER))

    monkeypatch.setattr(kept, "KEPT_BYTES", 0)
    anew = DATASETS[name](tmp_path)
    for found, expected in zip(samples, epochs(anew), strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            equal = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
            assert equal, key
    # what is kept is still what was read
    for position in range(NUMBER):
        for tensor, expected in zip(dataset.read(position), anew.read(position), strict=True):
            assert torch.equal(tensor, expected)
