"""Small data sets in COCO's JSON, in the layouts of several tools, for the tests of this folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import CocoInstances

HEIGHT, WIDTH = 30, 44
# ids with gaps, and not in the order of the alphabet
CATEGORIES = [{"id": 7, "name": "cell"}, {"id": 3, "name": "nucleus"}, {"id": 21, "name": "background noise"}]
NAMES = ["nucleus", "cell", "background noise"]


def write_image(file: Path, number: int, size: tuple[int, int] = (HEIGHT, WIDTH), orientation: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng([number, 5]).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, exif=exif)


def random_segmentation(random: np.random.Generator, kind: str) -> Any:
    """Return polygons with corners between pixels, or run lengths."""
    if kind == "polygons":
        return [
            (random.random((random.integers(3, 9), 2)) * (WIDTH, HEIGHT)).round(2).reshape(-1).tolist()
            for _ in range(random.integers(1, 4))
        ]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    top, left = random.integers(0, HEIGHT - 9), random.integers(0, WIDTH - 9)
    mask[top : top + 9, left : left + 9] = random.random((9, 9)) < 0.6
    mask[top, left] = 1
    if kind == "compressed":
        found = coco_mask.encode(mask)
        return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel()]))).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, HEIGHT * WIDTH]).tolist()}


def make_document(names: Sequence[str], first: int = 0) -> dict[str, Any]:
    """Return a document of images; the third of each four shows nothing, some objects are crowds, ids have gaps."""
    random = np.random.default_rng(first)
    images, annotations = [], []
    for index, name in enumerate(names):
        image_id = 10 * (first + index) + 3
        images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1})
        for number in range(0 if index % 4 == 2 else 4):
            kind = ("polygons", "polygons", "compressed", "plain")[number]
            annotations.append(
                {
                    "id": 100 * image_id + 7 * number,
                    "image_id": image_id,
                    "category_id": int(random.choice([7, 3])) if number else 21,
                    "segmentation": random_segmentation(random, kind),
                    "bbox": [0, 0, 1, 1],
                    "area": 1.5,
                    "iscrowd": int(number == 3),
                }
            )
    # in no order
    return {
        "info": {}, "images": images, "annotations": [annotations[i] for i in random.permutation(len(annotations))],
        "categories": [dict(category) for category in CATEGORIES],
    }  # fmt: skip


def write_document(file: Path, document: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def write_coco(folder: Path, images: str = "{split}2017", **counts: int) -> dict[str, dict[str, Any]]:
    """Write COCO's own layout, with as many images of each split; return the documents."""
    documents, first = {}, 0
    for split, count in (counts or {"train": 8, "val": 4}).items():
        names = [f"{first + index:012d}.png" for index in range(count)]
        documents[split] = make_document(names, first)
        write_document(folder / "annotations" / f"instances_{split}2017.json", documents[split])
        for index, name in enumerate(names):
            write_image(folder / images.format(split=split) / name, first + index)
        first += count
    return documents


def coco_instances(path: Path, **arguments: Any) -> CocoInstances:
    size = "img_size" if arguments.get("target") == "prompted" else "crop_size"
    return CocoInstances(path, **({size: (HEIGHT, WIDTH), "num_workers": 0, "batch_size": 2} | arguments))
