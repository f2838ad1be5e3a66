"""Boxes of faces: the files that list them, and the part of an image that is shown to a network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from datamodules.common.file_names import NameTable
from datamodules.faces.folders import Box, Face
from eomt.errors import UserError, listed, shortened
from eomt.utils.reading import read_text

# pixels from an image's corner; its decoder takes no image that is as large
FARTHEST = 1e8


def with_boxes(faces: Sequence[Face], folder: Path, file_names: Sequence[str]) -> list[Face]:
    """Give each face the box that files list for it.

    Args:
        faces: Of one data set.
        folder: Of the data set; names in the files are relative to it.
        file_names: Box files below `folder`; those that are not there are passed over.

    Raises:
        UserError: There is no file, a line of one is wrong, or a face has no box: were only some faces cropped, the
            crop itself would tell the classes apart.
    """
    files = [folder / name for name in file_names if (folder / name).is_file()]
    if not files:
        raise UserError(f"face_boxes: none of {listed(file_names)} is in {folder}; put the box files there")
    boxes: dict[str, Box] = {}
    for file in files:
        boxes |= _read_boxes(file)
    find = NameTable(boxes)
    without = [face.name for face in faces if find(face.name) is None]
    if without:
        raise UserError(
            f"face_boxes: {without[0]} has no box ({len(without)} of {len(faces)} images of {folder} have none); "
            "both classes must be cropped alike, add them or leave the images out"
        )
    return [replace(face, box=boxes[find(face.name) or ""]) for face in faces]


def _read_boxes(file: Path) -> dict[str, Box]:
    """Read lines of `path x1 x2 y1 y2`, as SYN-MAD's files have them; landmarks may follow and are not used."""
    boxes = {}
    for number, line in enumerate(read_text(file, "save it as UTF-8 text").splitlines(), start=1):
        if not line.strip():
            continue
        name, *values = line.split()
        try:
            left, right, top, bottom = map(_pixel, values[:4])
        except ValueError:
            raise UserError(f"{file}: line {number}: {shortened(line.strip())!r}; must be: path x1 x2 y1 y2") from None
        if not (left < right and top < bottom):
            raise UserError(
                f"{file}: line {number}: an empty box, x {left} to {right}, y {top} to {bottom}; correct the line"
            )
        boxes[PurePosixPath(name).as_posix()] = (left, top, right, bottom)
    return boxes


def _pixel(text: str) -> int:
    """Return a coordinate; one that is infinite, or in no image, is no number of pixels."""
    value = float(text)
    if not abs(value) < FARTHEST:
        raise ValueError(text)
    return round(value)


def face_window(image_size: tuple[int, int], box: Box | None, shape: tuple[int, int]) -> Box:
    """Return the part of an image that is shown, in the proportions of `shape`, so that no face is squashed.

    With a box it is the smallest such part that covers the box, around its center, moved and at last shrunk to lie
    within the image. Without one it is the largest such part in the middle of the image.

    Args:
        image_size: Height and width of the image.
        box: The face.
        shape: Height and width of what is shown in the end.

    Returns:
        Left, top, right and bottom in pixels.
    """
    height, width = image_size
    left, top, right, bottom = box or (0, 0, width, height)
    ratio = shape[1] / shape[0]
    inside = min(height, width / ratio)
    shown = inside if box is None else min(inside, max(bottom - top, (right - left) / ratio))
    shown_height, shown_width = max(1, round(shown)), max(1, round(shown * ratio))
    first_row = _clip(round((top + bottom - shown_height) / 2), height - shown_height)
    first_column = _clip(round((left + right - shown_width) / 2), width - shown_width)
    return first_column, first_row, first_column + shown_width, first_row + shown_height


def _clip(value: int, largest: int) -> int:
    return max(0, min(value, largest))
