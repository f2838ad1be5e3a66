"""Masks of classes, and masks of smooth edges."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from datamodules import ImageMaskFolder, Severstal
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_given_splits, write_pair


def folder(path: Path, **arguments: Any) -> ImageMaskFolder:
    return ImageMaskFolder(str(path), **({"batch_size": 2, "crop_size": (8, 8), "num_workers": 0} | arguments))


def write_smooth(path: Path, number: int = 12, factor: float = 1) -> None:
    """White rectangles, rotated and blurred, as drawing programs and resizing leave them."""
    for index in range(number):
        square = np.zeros((96, 144), dtype=np.uint8)
        square[30:66, 40:104] = 255
        picture = Image.fromarray(square).rotate(7 * index + 3, Image.Resampling.BICUBIC)
        picture = picture.filter(ImageFilter.GaussianBlur(2))
        mask = np.asarray(picture.resize((round(144 * factor), round(96 * factor)), Image.Resampling.NEAREST))
        for kind in ("images", "masks"):
            (path / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask if kind == "masks" else np.stack([mask] * 3, -1)).save(
                path / kind / f"{index:02d}.png"
            )


@pytest.mark.parametrize("factor", [1, 2.4, 4])
def test_smooth_masks_are_no_hundreds_of_classes(tmp_path: Path, factor: float) -> None:
    """15.6: 255 classes were trained, and the object itself, 255, was ignored; also of masks enlarged thereafter."""
    write_smooth(tmp_path, factor=factor)
    with pytest.raises(UserError, match=r"labels in the masks fill no area.*smooth or lossy.*mask_threshold"):
        folder(tmp_path).setup("fit")
    with pytest.raises(UserError, match=r"masks: .*fill no area.*black and white"):
        Severstal(str(tmp_path), num_workers=0).setup("fit")
    data = folder(tmp_path, mask_threshold=128)
    data.setup("fit")
    assert data.num_classes == 2
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["mask"], (batch["image"][:, 0] >= 128).long())
    assert data.file_labels() == [0, 255]
    assert data.found_arguments() == {"class_names": ["class 0", "class 1"]}


def test_thin_classes_are_no_smooth_edges(tmp_path: Path) -> None:
    """15.6: be their areas two pixels wide; where there are many, the message names class_names."""
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[4:6] = 1
    mask[:, 10:12] = 2
    for index in range(8):
        write_pair(tmp_path, f"{index}.png", mask)
    assert folder(tmp_path).num_classes == 3
    assert Severstal(str(tmp_path), num_workers=0).class_names == ["class 1", "class 2"]

    for index in range(8):
        write_pair(tmp_path, f"{index}.png", np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 40)
    with pytest.raises(UserError, match=r"class_names if all are classes"):
        _ = folder(tmp_path).num_classes
    assert folder(tmp_path, class_names=[f"c{index}" for index in range(40)]).num_classes == 40
    with pytest.raises(UserError, match=r"class_names if all are classes"):
        Severstal(str(tmp_path), num_workers=0).setup("fit")


def test_many_classes_of_areas_are_taken(tmp_path: Path) -> None:
    write_given_splits(tmp_path, number=4)
    for split in ("train", "val"):
        for file in (tmp_path / split / "masks").glob("*.png"):
            Image.fromarray(np.kron(np.arange(12).reshape(3, 4), np.ones((4, 4))).astype(np.uint8)).save(file)
    assert folder(tmp_path).num_classes == 12
