"""Prompts that are given in a file: COCO JSON, or a plain table as CSV or JSON.

Coordinates are in pixels of the upright image, x to the right and y down; a whole number is the center of a pixel, so
an image of width W reaches from -0.5 to W - 0.5. A table holds boxes (`x0, y0, x1, y1`, the outermost pixels) or points
(`x, y`, with `point_label` 1 on the object and 0 off it; points of one `object` of an image belong together, without
that column each point is an object). `label` says what an object is. COCO's boxes are left, top, width and height.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import TypedDict

from datamodules.common.file_names import NameTable
from datamodules.common.reading import image_size
from datamodules.common.tables import read_table
from datamodules.common.threads import map_in_threads
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted, listed, shortened
from eomt.prompts import PADDING_LABEL, Prompts
from eomt.utils.reading import FIELDS, Number, Text, read_json

log = logging.getLogger("eomt")

BOX = ("x0", "y0", "x1", "y1")
POINT = ("x", "y")
COLUMNS = ("file", *BOX, *POINT, "point_label", "object", "label")
FORMS = "give COCO JSON with boxes, or a table (CSV, or a list in JSON) with file, x0, y0, x1, y1 or file, x, y"
# what objects are called that nobody names, where there are several classes
UNNAMED = "object"


class _CocoImage(TypedDict):
    id: int
    file_name: Text


class _CocoCategory(TypedDict):
    id: int
    name: Text


class _CocoAnnotation(TypedDict):
    image_id: int
    bbox: list[Number]
    category_id: NotRequired[int]


class _Coco(TypedDict):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: NotRequired[list[_CocoCategory]]


COCO: TypeAdapter[Any] = TypeAdapter(_Coco)
# a cell may be a number, a text that a number is read from, or nothing
ROWS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Number | str | None]])


@dataclass
class PromptRow:
    """A box or a point.

    Attributes:
        place: Where it stands, for messages.
        file: Name of the image.
        values: x0, y0, x1, y1, or x, y.
        point_label: 1 on the object, 0 off it.
        object: Name of the object that a point is of; "" for one of its own.
        label: What the object is; "" where nobody says.
    """

    place: str
    file: str
    values: tuple[float, ...]
    point_label: int = 1
    object: str = ""
    label: str = ""


@dataclass
class ImagePrompts:
    """What is asked about an image: N objects.

    Attributes:
        rows: As they stand in the file.
        prompts: In pixels of the upright image.
        labels: What the objects are, N texts.
    """

    rows: list[PromptRow] = field(default_factory=list)
    prompts: Prompts = field(default_factory=lambda: Prompts(None, None, None))
    labels: list[str] = field(default_factory=list)


def read_prompts(file: Path, class_names: Sequence[str]) -> dict[str, ImagePrompts]:
    """Return what a file asks about each image, by the image's name as it is written there.

    Args:
        file: COCO JSON, or a table; see this module.
        class_names: Names of the classes: objects that nobody names are of the only one, or "object".

    Raises:
        UserError: The file cannot be read, or a row is wrong.
    """
    rows = list(_rows_of(file))
    if not rows:
        raise UserError(f"prompts: {file} holds no prompt; {FORMS}")
    found: dict[str, ImagePrompts] = {}
    for row in rows:
        found.setdefault(row.file, ImagePrompts()).rows.append(row)
    unnamed = class_names[0] if len(class_names) == 1 else UNNAMED
    for asked in found.values():
        _assemble(asked, unnamed)
    return found


def class_ids_of(prompts: Mapping[str, ImagePrompts], class_names: Sequence[str]) -> dict[str, Tensor | None]:
    """Return the class ids of each image's objects, int64 `(N,)`; None for an image with a label that is no class.

    Which labels and images these are is said.
    """
    known = {name: index for index, name in enumerate(class_names)}
    found = {
        name: torch.tensor([known[label] for label in asked.labels]) if known.keys() >= set(asked.labels) else None
        for name, asked in prompts.items()
    }
    numbered = [name for name, ids in found.items() if ids is None]
    labels = dict.fromkeys(label for name in numbered for label in prompts[name].labels if label not in known)
    if numbered:
        reasons = [repr(shortened(label, 40)) for label in labels if label != UNNAMED]
        what = [f"no class is called {listed(reasons, most=3)}"] if reasons else []
        what += ["labels are missing"] if UNNAMED in labels else []
        # where nothing has a label, it is meant
        is_meant = not reasons and len(numbered) == len(found)
        log.log(
            logging.INFO if is_meant else logging.WARNING,
            "prompts: %s: in the masks of %s there are numbers of objects, and no class ids: %s",
            *(" and ".join(what), counted(len(numbered), "image"), listed(numbered, most=3)),
        )
    return found


def match_prompts(
    file: Path, prompts: Mapping[str, ImagePrompts], images: Mapping[str, ImageFile], all_predicted: bool = True
) -> dict[str, ImagePrompts]:
    """Return prompts by the names of the images that they are of, after a look at the images' sizes.

    Images are found by their names or, where only one image has it, by the last part of it.

    Args:
        file: That holds the prompts, for messages.
        prompts: By the names that stand there.
        images: Name and file of each image that may be prompted.
        all_predicted: Whether those without a prompt are predicted too, which is said then.

    Raises:
        UserError: An image is unknown, or a prompt lies outside of its image.
    """
    whole = NameTable(images)
    last_parts: dict[str, list[str]] = {}
    for name in images:
        last_parts.setdefault(Path(name).name, []).append(name)
    last = NameTable(last_parts)
    found: dict[str, ImagePrompts] = {}
    for given, asked in prompts.items():
        same = whole(given)
        alike = last_parts.get(last(Path(given).name) or "", []) if same is None else [same]
        if len(alike) != 1:
            reason = f"may be any of {listed(alike, most=3)}" if alike else f"is none of {_some(images)}"
            raise UserError(f"prompts: {file}: {asked.rows[0].place}: image {shortened(given, 80)} {reason}")
        name = alike[0]
        if name in found:
            raise UserError(f"prompts: {file}: {asked.rows[0].place}: {name} has prompts under another name, too")
        found[name] = asked
    sizes = map_in_threads(_size_of, [images[name] for name in found], "Checking prompted images")
    for (name, asked), size in zip(found.items(), sizes, strict=True):
        # what cannot be read is told when it is predicted
        if size is not None:
            _check_inside(file, name, asked, size)
    objects = sum(len(asked.labels) for asked in found.values())
    log.info("prompts: %s asks for %s in %s", file, counted(objects, "object"), counted(len(found), "image"))
    without = [name for name in images if name not in found] if all_predicted else []
    if without:
        log.info("prompts: %s without a prompt: %s", counted(len(without), "image"), listed(without, most=3))
    return found


def _some(images: Mapping[str, ImageFile]) -> str:
    return f"the {counted(len(images), 'image')} ({listed(images, most=2)})"


def _size_of(file: ImageFile) -> tuple[int, int] | None:
    """Return height and width of an upright image, from the head of its file; None if it cannot be read."""
    try:
        return image_size(file)
    except UserError:
        return None


def _check_inside(file: Path, name: str, asked: ImagePrompts, size: tuple[int, int]) -> None:
    height, width = size
    for row in asked.rows:
        xs, ys = row.values[0::2], row.values[1::2]
        if min(*xs, *ys) < -0.5 or max(xs) > width - 0.5 or max(ys) > height - 0.5:
            what = "box" if len(row.values) == len(BOX) else "point"
            raise UserError(
                f"prompts: {file}: {row.place}: {what} {_written(row.values)} is not inside of {name}, of "
                f"{width} x {height} pixels (width x height)"
            )


def _written(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _assemble(asked: ImagePrompts, unnamed: str) -> None:
    """Fill `prompts` and `labels` from the rows."""
    if len(asked.rows[0].values) == len(BOX):
        asked.prompts = Prompts(None, None, torch.tensor([row.values for row in asked.rows]))
        asked.labels = [row.label or unnamed for row in asked.rows]
        return
    objects: dict[str, list[PromptRow]] = {}
    for number, row in enumerate(asked.rows):
        objects.setdefault(f"named {row.object}" if row.object else f"row {number}", []).append(row)
    points = [torch.tensor([row.values for row in rows]) for rows in objects.values()]
    signs = [torch.tensor([row.point_label for row in rows], dtype=torch.int32) for rows in objects.values()]
    padded = pad_sequence(signs, batch_first=True, padding_value=PADDING_LABEL)
    asked.prompts = Prompts(pad_sequence(points, batch_first=True), padded, None)
    asked.labels = [next((row.label for row in rows if row.label), unnamed) for rows in objects.values()]


def _rows_of(file: Path) -> Iterator[PromptRow]:
    if not file.is_file():
        raise UserError(f"prompts: {file} does not exist; {FORMS}")
    if file.suffix.lower() != ".json":
        header, lines = read_table(file)
        header = [column.lower() for column in header]
        yield from _rows_of_table(
            file, header, ((f"row {number}", dict(zip(header, cells, strict=False))) for number, cells in lines)
        )
        return
    try:
        # a whole document is an object, a table a list
        fields = read_json(file, FIELDS, FORMS)
    except UserError:
        rows = read_json(file, ROWS, FORMS)
        if not rows:
            return
        columns = list(dict.fromkeys(column for row in rows for column in row))
        yield from _rows_of_table(
            file, columns, ((f"row {number}", dict(row)) for number, row in enumerate(rows, start=1))
        )
        return
    if "annotations" not in fields:
        raise UserError(f"prompts: {file} has no annotations; {FORMS}")
    yield from _rows_of_coco(file, read_json(file, COCO, FORMS))


def _rows_of_table(
    file: Path, columns: Sequence[str], rows: Iterator[tuple[str, dict[str, Any]]]
) -> Iterator[PromptRow]:
    kinds = [kind for kind in (BOX, POINT) if set(kind) <= set(columns)]
    if "file" not in columns or len(kinds) != 1:
        raise UserError(f"prompts: {file}: columns {listed(columns)}; {FORMS}")
    if unknown := [column for column in columns if column not in COLUMNS]:
        raise UserError(f"prompts: {file}: unknown column {unknown[0]!r}; there are: {', '.join(COLUMNS)}")
    for place, cells in rows:
        texts = {name: "" if value is None else str(value).strip() for name, value in cells.items()}
        if not texts.get("file"):
            raise UserError(f"prompts: {file}: {place}: no file is named; write the image's name there")
        values = tuple(_number(file, place, name, texts.get(name, "")) for name in kinds[0])
        if kinds[0] is BOX:
            _refuse_empty(file, place, values)
        sign = texts.get("point_label") or "1"
        if sign not in ("0", "1", "0.0", "1.0"):
            raise UserError(f"prompts: {file}: {place}: point_label {sign!r}; must be 1 (on the object) or 0 (off it)")
        label, named = texts.get("label", ""), texts.get("object", "")
        yield PromptRow(place, texts["file"], values, int(float(sign)), named, label)


def _rows_of_coco(file: Path, document: Mapping[str, Any]) -> Iterator[PromptRow]:
    names = {image["id"]: image["file_name"] for image in document["images"]}
    categories = {category["id"]: category["name"] for category in document.get("categories", [])}
    for number, annotation in enumerate(document["annotations"], start=1):
        place = f"annotation {number}"
        if annotation["image_id"] not in names:
            raise UserError(f"prompts: {file}: {place}: image_id {annotation['image_id']} is not in images")
        if len(annotation["bbox"]) != len(BOX):
            raise UserError(f"prompts: {file}: {place}: bbox {annotation['bbox']}; give left, top, width and height")
        left, top, width, height = map(float, annotation["bbox"])
        if width <= 0 or height <= 0:
            raise UserError(f"prompts: {file}: {place}: bbox {_written((left, top, width, height))} is empty")
        # COCO's width counts pixels, or parts of them; a box here names the outermost ones
        right, bottom = left + max(width - 1, 0.0), top + max(height - 1, 0.0)
        label = categories.get(annotation.get("category_id"), "")
        yield PromptRow(place, names[annotation["image_id"]], (left, top, right, bottom), label=label)


def _refuse_empty(file: Path, place: str, box: Sequence[float]) -> None:
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        raise UserError(f"prompts: {file}: {place}: box {_written(box)} is empty: x1 is below x0, or y1 below y0")


def _number(file: Path, place: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"prompts: {file}: {place}: {column} {shortened(text)!r} is no number") from error
    if not math.isfinite(value):
        raise UserError(f"prompts: {file}: {place}: {column} {text} is not finite")
    return value
