from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageMaskFolder
from datamodules.common.areas import rims
from datamodules.objects.annotation import AnnotatedImage, Objects
from datamodules.recognition.formats import recognize
from datamodules.recognition.oddities import copy_lines, object_lines, rim_lines, thin_objects, touching_pairs
from eomt.errors import UserError
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


def blobs(seed: int, resample: Image.Resampling, labels: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """Labels of ellipses on 0, drawn four times as large and resized to 64 x 64."""
    random, large = np.random.default_rng(seed), np.zeros((256, 256), np.uint8)
    rows, columns = np.mgrid[:256, :256]
    for label in labels * 3:
        top, left = random.integers(30, 226, 2)
        height, width = random.integers(20, 50, 2)
        large[((rows - top) / height) ** 2 + ((columns - left) / width) ** 2 < 1] = label
    return np.asarray(Image.fromarray(large).resize((64, 64), resample))


def rims_by_hand(mask: np.ndarray, known: np.ndarray) -> tuple[int, int]:
    """Pixels of rims, and edges without one, by a loop over lines."""
    rims, sharp = 0, 0
    for labels, counts in ((mask, known), (mask.T, known.T)):
        for line, count in zip(labels.astype(int), counts, strict=True):
            steps = [int(line[i + 1] - line[i]) if count[i] and count[i + 1] else 0 for i in range(len(line) - 1)]
            rims += sum(one * two > 0 for one, two in pairwise(steps))
            padded = [0, *steps, 0]
            sharp += sum(abs(padded[i]) >= 2 and padded[i - 1] == padded[i + 1] == 0 for i in range(1, len(padded) - 1))
    return rims, sharp


def test_rims_are_those_of_a_loop_over_lines_and_tell_smooth_masks_from_sharp_ones() -> None:
    random = np.random.default_rng(0)
    for seed in range(8):
        for resample in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
            mask = blobs(seed, resample)
            known = random.random(mask.shape) < 0.97
            found = rims(mask, known)
            number, sharp = rims_by_hand(mask, known)
            assert len(found.labels) == number
            assert found.share == pytest.approx(number / (number + sharp))
            assert rims(mask, np.ones(mask.shape, bool)).look_smooth == (resample != Image.Resampling.NEAREST)
    # an edge of two neighboring numbers has no room for a rim
    assert not rims(blobs(0, Image.Resampling.BILINEAR, (1,)), np.ones((64, 64), bool)).look_smooth
    # what is ignored around objects is no rim
    mask = blobs(1, Image.Resampling.NEAREST)
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    assert not rims(np.where(edge, 255, mask).astype(np.uint8), ~edge).look_smooth


def test_smooth_masks_are_said_with_their_labels() -> None:
    def readers(resample: Image.Resampling) -> dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]]:
        known = np.ones((64, 64), bool)
        return {f"{seed}.png": partial(lambda seed: (blobs(seed, resample, (3, 5)), known), seed) for seed in range(2)}

    (line,) = rim_lines("train", readers(Image.Resampling.BILINEAR))
    assert line.startswith("Odd: train: 2 masks of 2 look smooth (anti-aliased, resized or JPEG)")
    assert "(1, 2, 3, 4)" in line or "(1, 2, 4)" in line
    assert line.endswith("0.png, 1.png")
    assert not list(rim_lines("train", readers(Image.Resampling.NEAREST)))


def test_lines_and_rims_are_objects_nowhere_three_pixels_wide() -> None:
    masks = np.zeros((5, 20, 24), dtype=bool)
    masks[0, 2:4, 1:20] = True  # two wide
    masks[1, 6:9, 1:20] = True  # three wide
    masks[2, 11:18, 2:9] = True  # a ring
    masks[2, 12:17, 3:8] = False
    masks[3, 12, 12:15] = True  # few pixels, which another line tells
    masks[4, 17:20, 20:24] = True  # in a corner
    objects = Objects.from_masks((20, 24), masks, [0, 0, 0, 0, 0])
    image = AnnotatedImage("a.png", Path("a.png"), frozenset({0}), None)  # type: ignore[arg-type]
    assert thin_objects(objects) == 2
    text = "\n".join(object_lines("val", [(image, objects)]))
    assert (
        "Odd: val: 2 objects nowhere three pixels wide, in 1 image: lines, or the rims of smooth masks: a.png" in text
    )


def test_gray_masks_with_rims_are_not_taken_for_classes(tmp_path: Path) -> None:
    write_given_splits(tmp_path, 2)
    for number, file in enumerate(tmp_path.glob("*/masks/*.png")):
        smooth = np.asarray(Image.fromarray(blobs(number, Image.Resampling.NEAREST, (1,)) * 255).resize((16, 12), 2))
        Image.fromarray(smooth // 64 * 64).save(file)
    with pytest.raises(UserError, match=r"look smooth .* in \d of 2, rims of labels .* mask_threshold: 128"):
        ImageMaskFolder(tmp_path, crop_size=(12, 16)).setup("fit")
    # sharp masks with gaps keep the other message
    for file in tmp_path.glob("*/masks/*.png"):
        Image.fromarray(np.asarray(Image.open(file)) // 128 * 100).save(file)
    with pytest.raises(UserError, match=r"labels 0, 100, but no 1; give class_names"):
        ImageMaskFolder(tmp_path, crop_size=(12, 16)).setup("fit")
