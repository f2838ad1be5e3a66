from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.recognition.formats import recognize
from datamodules.recognition.oddities import copy_lines, object_lines, touching_pairs
from tests.datamodules.common.image_files import write_given_splits, write_split
from tests.datamodules.objects.drawn_exports import EXPORTS
from tests.datamodules.objects.test_yolo import write_image


@pytest.mark.parametrize(
    ("folder", "class_path"),
    [
        ("supervision/yolo", "datamodules.YoloSegmentation"),
        ("label_studio/yolo", "datamodules.YoloSegmentation"),
        ("supervision/coco", "datamodules.CocoInstances"),
        ("label_studio/coco", "datamodules.CocoInstances"),
        ("datumaro/coco_instances", "datamodules.CocoInstances"),
        ("datumaro/voc_segmentation", "datamodules.PascalVoc"),
        ("labelme", "datamodules.LabelMe"),
        ("datasets/arrow", "datamodules.HuggingFaceSegmentation"),
        ("datasets/parquet", "datamodules.HuggingFaceSegmentation"),
    ],
)
def test_formats_are_told_by_what_tools_wrote(folder: str, class_path: str) -> None:
    found = recognize(EXPORTS / folder)
    assert found is not None
    assert found.class_path == class_path


def test_folders_of_masks_are_recognized_and_others_are_not(tmp_path: Path) -> None:
    write_split(tmp_path / "plain")
    write_given_splits(tmp_path / "split")
    for folder in ("plain", "split"):
        found = recognize(tmp_path / folder)
        assert found is not None
        assert found.class_path == "datamodules.ImageMaskFolder"
    write_image(tmp_path / "images_alone" / "a.png")
    assert recognize(tmp_path / "images_alone") is None
    assert recognize(tmp_path / "gone") is None
    (tmp_path / "data.yaml").write_text("names: [a\n")
    assert recognize(tmp_path) is None


def test_touching_pairs_are_those_of_brute_force() -> None:
    random = np.random.default_rng(0)
    found = 0
    for _ in range(30):
        masks = []
        for _ in range(6):
            mask = np.zeros((20, 24), dtype=bool)
            top, left = random.integers(0, (14, 18))
            mask[top : top + 6, left : left + 6] = random.random((6, 6)) < 0.4
            if mask.any():
                masks.append(mask)
        labels = random.integers(0, 2, len(masks))
        points = [np.argwhere(mask) for mask in masks]
        expected = sum(
            bool((np.abs(points[one][:, None] - points[other][None]).max(-1) <= 1).any())
            for one in range(len(masks))
            for other in range(one)
            if labels[one] == labels[other]
        )
        assert touching_pairs(Objects.from_masks((20, 24), masks, labels)) == expected
        found += expected
    assert found > 20


def test_small_objects_and_sizes_are_said() -> None:
    masks = [np.zeros((20, 24), dtype=bool) for _ in range(2)]
    masks[0][2:4, 2:5], masks[1][10:16, 10:16] = True, True
    objects = Objects.from_masks((20, 24), masks, [0, 0])
    image = AnnotatedImage("a.png", Path("a.png"), frozenset({0}), None)  # type: ignore[arg-type]
    lines = list(object_lines("train", [(image, objects)]))
    assert lines[0].startswith("Data: train: images of 20 x 24; objects of 6 to 36 pixels")
    assert lines[1] == "Odd: train: 1 object of fewer than 20 pixels: a.png (6 pixels)"
    assert len(lines) == 2


def test_pictures_that_are_stored_anew_are_found_in_the_other_split(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        other = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8) if seed else pixels
        Image.fromarray(other).resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / name)
    Image.open(tmp_path / "a.png").resize((80, 80)).save(tmp_path / "again.jpg", quality=90)
    splits = {"train": [("a.png", tmp_path / "a.png")], "val": [(n, tmp_path / n) for n in ("b.png", "again.jpg")]}
    (line,) = copy_lines(splits)
    assert "Odd: 1 image of one split can be seen in another" in line
    assert "val/again.jpg" in line
    assert "train/a.png" in line
    assert not list(copy_lines({"train": splits["train"], "val": splits["val"][:1]}))
