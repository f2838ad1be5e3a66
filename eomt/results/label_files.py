"""Masks as files that labeling tools import: YOLO's polygons, and LabelMe's JSON.

Polygons run along the edges of pixels, so that the data modules that read these formats give every mask back. What they
cannot hold: how sure the model is; in YOLO, that an object has several parts, or a hole, which it reaches over a seam
of no width (other programs may paint that seam a pixel wide); in LabelMe, holes likewise.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from eomt.errors import UserError
from eomt.results.coco import Annotated, mask_of
from eomt.results.polygons import mask_polygons, one_polygon
from eomt.utils.files import write_file

LabelFormat = Literal["yolo", "labelme"]
# the class of pixels of no object, which is none that could be labeled
BACKGROUND = "background"
# the version of LabelMe's format that the files have
LABELME_VERSION = "5.5.0"


def yolo_text(annotations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the text of an image's label file: class, and x and y of a polygon in shares of the image, a line each.

    Args:
        annotations: Of COCO, with the names of their categories, see `eomt.results.coco.annotation`.
        names: Of the classes, by class id; annotations of others are left out.
    """
    lines = []
    for found in annotations:
        if found["category"] not in names:
            continue
        mask = mask_of(found["segmentation"])
        shares = one_polygon(mask) / mask.shape[::-1]
        numbers = " ".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in shares.ravel())
        lines.append(f"{names.index(found['category'])} {numbers}\n")
    return "".join(lines)


def yolo_description(names: Sequence[str]) -> str:
    """Return the text of a `data.yaml` for label files in `labels` of images that are put into `images`."""
    return yaml.safe_dump({"train": "images", "val": "images", "names": dict(enumerate(names))}, sort_keys=False)


def labelme_document(name: str, size: tuple[int, int], annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the JSON of an image: a polygon for each part of an object; parts of one have a common group.

    Args:
        name: Of the image's file, relative to that of the JSON.
        size: Height and width of the image.
        annotations: Of COCO, with the names of their categories.
    """
    shapes = []
    for number, found in enumerate(annotations, start=1):
        if found["category"] == BACKGROUND:
            continue
        polygons = mask_polygons(mask_of(found["segmentation"]))
        for polygon in polygons:
            shapes.append(
                {
                    "label": found["category"],
                    "points": polygon.astype(float).tolist(),
                    "group_id": number if len(polygons) > 1 else None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
            )
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def label_file(folder: Path, name: str, kind: LabelFormat) -> Path:
    """Return where the file of an image belongs: below a folder and never outside it.

    Args:
        folder: Of all label files.
        name: Of the image, relative to its own folder.
        kind: The format.
    """
    path = Path(name)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    inside = Path(*parts).with_suffix(".txt" if kind == "yolo" else ".json")
    return folder / "labels" / inside if kind == "yolo" else folder / inside


def write_label_files(
    folder: Path,
    kind: LabelFormat,
    images: Iterator[tuple[str, tuple[int, int], Sequence[Mapping[str, Any]]]],
    class_names: Sequence[str],
) -> None:
    """Write a label file for each image, and for YOLO a `data.yaml`; files that are there are replaced.

    Args:
        folder: The folder; for YOLO, images belong into its `images`, for LabelMe beside the JSON files.
        kind: The format.
        images: Name, height and width, and annotations of COCO with the names of their categories.
        class_names: Names of all classes, by class id; "background" is none.

    Raises:
        UserError: Two images would share a file, or it cannot be written.
    """
    names = [name for name in class_names if name != BACKGROUND]
    written: dict[Path, str] = {}
    for name, size, annotations in images:
        file = label_file(folder, name, kind)
        if file in written:
            raise UserError(f"{file}: would be of {name} and of {written[file]}; rename one of the two images")
        written[file] = name
        if kind == "yolo":
            text = yolo_text(annotations, names)
        else:
            text = json.dumps(labelme_document(Path(name).name, size, annotations), indent=2)
        _write(file, text)
    if kind == "yolo":
        _write(folder / "data.yaml", yolo_description(names))


def save_labels(results: Sequence[Annotated], folder: str | Path, kind: LabelFormat) -> Path:
    """Write the masks of results as files that labeling tools import, see `write_label_files`, and return the folder.

    Args:
        results: Of images with names.
        folder: Is made if need be.
        kind: The format: "yolo" or "labelme".

    Raises:
        UserError: There are no results, one has no masks, or the files cannot be written.
    """
    if not results:
        raise UserError(f"{folder}: there are no results to write")
    names = list(dict.fromkeys(name for result in results for name in result.categories()))
    images = ((result.name or "image.png", result.size, result.annotations()) for result in results)
    write_label_files(Path(folder), kind, images, names)
    return Path(folder)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda beside: beside.write_text(text, encoding="utf-8"))
