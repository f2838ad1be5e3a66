"""What other tools' own code wrote is read as it was drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.common.reading import check_image, orientation_of
from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.coco_instances import CocoInstances
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.hugging_face import HuggingFaceSegmentation
from datamodules.objects.label_me import LabelMe
from datamodules.objects.pascal_voc import PascalVoc
from datamodules.objects.yolo_segmentation import YoloSegmentation
from tests.datamodules.objects.drawn_exports import BOX, EXPORTS, NAMES, RING, drawn_objects, overlap

EXACT = 1.0
# polygons through the middles of the outermost pixels of objects of ten pixels, see the README of the exports
THROUGH_MIDDLES = 0.7


def samples(kind: type[ObjectDataModule], folder: str) -> tuple[ObjectDataModule, dict[int, AnnotatedImage]]:
    """Return a data module, and its images by their numbers."""
    data = kind(EXPORTS / folder, batch_size=1, crop_size=(24, 32), num_workers=0)
    images = [image for images in data.find_splits().values() for image in images]
    found: dict[int, AnnotatedImage] = {}
    for place, image in enumerate(images):
        digits = Path(image.name).stem.rpartition("/")[2]
        found[int(digits) if len(digits) == 1 else place] = image
    return data, found


def found_objects(data: ObjectDataModule, image: AnnotatedImage) -> list[tuple[np.ndarray, int]]:
    found = image.annotation.objects(check_image(image.image), orientation_of(image.image))
    assert set(found.class_ids.tolist()) == image.classes
    names = [data.object_names[class_id] for class_id in found.class_ids]
    return [(mask, NAMES.index(name)) for mask, name in zip(found.masks, names, strict=True)]


@pytest.mark.parametrize(
    ("kind", "folder"),
    [(PascalVoc, "datumaro/voc_segmentation"), (CocoInstances, "datumaro/coco_instances")],
)
def test_masks_are_read_just_as_they_were_drawn(kind: type[ObjectDataModule], folder: str) -> None:
    data, images = samples(kind, folder)
    assert sorted(data.object_names) == sorted(NAMES)
    for number, image in images.items():
        found, drawn = found_objects(data, image), drawn_objects(number)
        assert len(found) == len(drawn)
        for mask, class_id in drawn:
            assert max(overlap(mask, other) for other, label in found if label == class_id) == EXACT


def test_every_kind_of_shape_of_labelme_is_read() -> None:
    data, images = samples(LabelMe, "labelme")
    # the image of 2 is inside of its file
    assert {image.name for image in images.values()} == {"0.png", "1.png", "2.json"}
    for number, image in images.items():
        found, drawn = found_objects(data, image), drawn_objects(number)
        assert [label for _, label in found] == [label for _, label in drawn]
        for (mask, label), (expected, _) in zip(found, drawn, strict=True):
            if number == 1 and label == RING:
                # drawn as a circle around the middle of a pixel, which has no hole
                rows, columns = np.mgrid[:24, :32]
                expected = (rows - 10) ** 2 + (columns - 10) ** 2 <= 49
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (YoloSegmentation, "supervision/yolo"),
        (YoloSegmentation, "label_studio/yolo"),
        (CocoInstances, "supervision/coco"),
        (CocoInstances, "label_studio/coco"),
    ],
)
def test_polygons_are_filled(kind: type[ObjectDataModule], folder: str) -> None:
    data, images = samples(kind, folder)
    assert sorted(data.object_names) == sorted(NAMES)
    assert len(images) == 3
    for number, image in images.items():
        found, drawn = found_objects(data, image), drawn_objects(number)
        # Label Studio writes a polygon for the hole of a ring, and YOLO has one for each part
        assert len(found) >= len(drawn)
        for class_id in (RING, BOX):
            of_class = [mask for mask, label in drawn if label == class_id]
            if not of_class:
                continue
            expected = np.logical_or.reduce(of_class)
            if class_id == RING and folder.startswith("label_studio"):
                expected = expected | (np.hypot(*(np.mgrid[:24, :32] - np.array([10, 9 + number])[:, None, None])) < 4)
            union = np.logical_or.reduce([mask for mask, label in found if label == class_id])
            assert overlap(union, expected) > THROUGH_MIDDLES


@pytest.mark.parametrize("folder", ["datasets/arrow", "datasets/parquet"])
def test_tables_of_datasets_are_read_with_their_splits(folder: str) -> None:
    data = HuggingFaceSegmentation(EXPORTS / folder, batch_size=1, crop_size=(24, 32), num_workers=0)
    assert data.object_names == (["class 1", "class 2"] if folder.endswith("arrow") else NAMES)
    splits = data.find_splits()
    assert {split: len(images) for split, images in splits.items()} == {"train": 2, "val": 1}
    for number, image in enumerate([*splits["train"], *splits["val"]]):
        found = image.annotation.objects(check_image(image.image), 1)
        for class_id, mask in zip(found.class_ids, found.masks, strict=True):
            drawn = [part for part, label in drawn_objects(number) if label == class_id]
            np.testing.assert_array_equal(mask, np.logical_or.reduce(drawn))


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (PascalVoc, "datumaro/voc_segmentation"),
        (YoloSegmentation, "supervision/yolo"),
        (LabelMe, "labelme"),
        (HuggingFaceSegmentation, "datasets/arrow"),
    ],
)
@pytest.mark.parametrize("target", ["semantic", "instance", "prompted"])
def test_each_gives_batches_of_every_kind(kind: type[ObjectDataModule], folder: str, target: Any) -> None:
    data = kind(EXPORTS / folder, batch_size=1, crop_size=(24, 32), img_size=(24, 32), num_workers=0, target=target)
    data.setup()
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.predict_dataloader()):
        assert batch["image"].shape == (1, 3, 24, 32)
    assert data.counts["train"]["images"] >= 1
