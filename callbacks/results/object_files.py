"""What `predict` finds one by one, as pictures of numbers and in COCO's panoptic format."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from callbacks.pictures.output import picture_path, save_picture
from eomt.results import InstanceResult, PanopticResult, Result

# folders of pictures
OBJECTS, SEGMENTS = "objects", "segments"
PANOPTIC = "panoptic.json"


def save_numbers(result: Result, folder: Path, name: str) -> None:
    """Write which object or segment each pixel is of, where a result tells these apart.

    Args:
        result: What was found.
        folder: Of predictions: objects have numbers from 1 in `objects`, segments COCO's colors in `segments`.
        name: Of the image.
    """
    if isinstance(result, InstanceResult):
        save_picture(result.png(), folder / OBJECTS / picture_path(name))
    elif isinstance(result, PanopticResult):
        save_picture(result.png(), folder / SEGMENTS / picture_path(name))


def write_panoptic(
    lines: Callable[[], Iterator[dict[str, Any]]],
    class_names: Sequence[str],
    stuff_classes: Sequence[int],
    path: Path,
) -> None:
    """Write the segments of all images as COCO does, whose pictures lie in `segments`.

    Args:
        lines: What is kept of the images of panoptic segmentation; its rows and its annotations are of the same
            segments.
        class_names: Names of the classes; their ids are those of `predictions.json`.
        stuff_classes: Which of them are stuff.
        path: The file.
    """
    ids = {name: number for number, name in enumerate(class_names, start=1)}
    images, annotations = [], []
    for number, line in enumerate(lines(), start=1):
        height, width = line["size"]
        images.append({"id": number, "file_name": line["name"], "height": height, "width": width})
        infos = [
            {
                "id": row["segment"],
                "category_id": ids[row["class"]],
                "area": row["pixels"],
                "bbox": found["bbox"],
                "iscrowd": 0,
            }
            for row, found in zip(line["rows"], line["annotations"], strict=True)
        ]
        file = picture_path(line["name"]).as_posix()
        annotations.append({"image_id": number, "file_name": file, "segments_info": infos})
    categories = [
        {"id": number, "name": name, "isthing": int(number - 1 not in stuff_classes)} for name, number in ids.items()
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}) + "\n")
