"""What all results have in common, and files of several."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eomt.errors import UserError
from eomt.results.coco import coco_document
from eomt.results.label_files import save_labels
from eomt.utils.files import write_file


@dataclass(repr=False)
class Result:
    """What a model says of one image.

    Args:
        image: The image, uint8 RGB `(H, W, 3)`, upright.
        name: Name of its file; "" if it came from memory.
    """

    image: np.ndarray
    name: str = field(default="", kw_only=True)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def draw(self) -> Image.Image:
        """Return a picture of the result, RGB."""
        raise NotImplementedError

    def png(self) -> Image.Image:
        """Return what is written as PNG: the picture, unless the result has a form of its own."""
        return self.draw()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the result in a table: column -> number or text."""
        raise NotImplementedError

    def annotations(self) -> list[dict[str, Any]]:
        """Return the result as annotations of COCO, without ids and with the names of their categories.

        Raises:
            UserError: If it has no masks.
        """
        raise UserError(f"{type(self).__name__}: has no masks, so it is no COCO JSON; save it as .csv or .png")

    def categories(self) -> list[str]:
        """Return the names of all categories that `annotations` may have."""
        return []

    def save(self, path: str | Path) -> Path:
        """Write the result: `.png` the mask or picture, `.json` COCO, `.csv` a table. An existing file is replaced.

        Raises:
            UserError: For another suffix, or if it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            write_file(path, lambda beside: self.png().save(beside, format="PNG"))
            return path
        return save_results([self], path)

    def to_yolo(self, folder: str | Path) -> Path:
        """Write the masks as YOLO's polygons, a text file in `labels` and a `data.yaml`, and return the folder.

        Raises:
            UserError: If it has no masks, or the files cannot be written.
        """
        return save_labels([self], folder, "yolo")

    def to_labelme(self, folder: str | Path) -> Path:
        """Write the masks as LabelMe's JSON, which belongs beside the image, and return the folder.

        Raises:
            UserError: If it has no masks, or the file cannot be written.
        """
        return save_labels([self], folder, "labelme")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._said()}, {self.size[0]} x {self.size[1]} pixels)"

    def _said(self) -> str:
        return repr(self.name)


def save_results(results: Sequence[Result], path: str | Path) -> Path:
    """Write results of several images into one file: `.json` as COCO, `.csv` as a table. An existing one is replaced.

    Raises:
        UserError: For another suffix, no results, results of different kinds, or if it cannot be written.
    """
    path = Path(path)
    if not results:
        raise UserError(f"{path}: there are no results to write")
    suffix = path.suffix.lower()
    if suffix == ".json":
        document = coco_document(results)
        write_file(path, lambda beside: beside.write_text(json.dumps(document), encoding="utf-8"))
    elif suffix == ".csv":
        rows = [row for result in results for row in result.rows()]
        columns = list(dict.fromkeys(column for row in rows for column in row))

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns)
                table.writeheader()
                table.writerows(rows)

        write_file(path, write)
    else:
        raise UserError(f"{path}: give a name that ends in .json (COCO) or .csv; a single result can be .png, too")
    return path
