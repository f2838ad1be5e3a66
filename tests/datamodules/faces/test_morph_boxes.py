"""Face boxes: what is shown of an image, and errors in box files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.faces.boxes import face_window
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_splits


def test_boxes_crop_both_classes(tmp_path: Path) -> None:
    write_splits(tmp_path)
    lines = {}
    for file in tmp_path.rglob("*.png"):
        image = Image.new("RGB", (60, 40))
        image.paste(Image.open(file), (30, 10))
        image.save(file)
        lines[file] = f"./{file.relative_to(tmp_path)} 30 54 10 34 1 2 3 4\n"
    (tmp_path / "boxes.txt").write_text("".join(lines.values()))
    data = morph_faces(tmp_path, img_size=24, face_boxes=["boxes.txt"])
    data.setup()
    for image, path in [pair for b in data.val_dataloader() for pair in zip(b["image"], b["path"], strict=True)]:
        with Image.open(path) as file:
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(file)[10:34, 30:54])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("./val/bonafide/id010_0.png", "./val/bonafide/x.png"), r"id010_0\.png has no box"),
        (lambda text: text.replace("30 54 10 34", "30 54 10", 1), "line 1: .*must be: path x1 x2 y1 y2"),
        (lambda text: text.replace("30 54 10 34", "54 30 10 34"), "line 1: an empty box"),
        (lambda text: text.replace("30 54 10 34", "15 24 10 34"), "face box in an image of 24 x 24 of 14 x 9 "),
        (None, "none of boxes.txt is in"),
    ],
)
def test_errors_in_boxes_are_named(tmp_path: Path, spoil: Any, message: str) -> None:
    write_splits(tmp_path)
    text = "".join(f"./{file.relative_to(tmp_path)} 30 54 10 34\n" for file in tmp_path.rglob("*.png"))
    if spoil is not None:
        (tmp_path / "boxes.txt").write_text(spoil(text))
    with pytest.raises(UserError, match=message):
        morph_faces(tmp_path, face_boxes=["boxes.txt"]).setup("fit")


@pytest.mark.parametrize(
    ("size", "box", "shape", "window"),
    [
        ((40, 60), None, (16, 16), (10, 0, 50, 40)),
        ((40, 60), None, (8, 16), (0, 5, 60, 35)),
        ((40, 60), (20, 10, 30, 30), (16, 16), (15, 10, 35, 30)),
        # moved into the image, then shrunk to it
        ((40, 60), (50, 0, 60, 20), (16, 16), (40, 0, 60, 20)),
        ((40, 60), (-10, -10, 70, 60), (16, 16), (10, 0, 50, 40)),
    ],
)
def test_the_window_keeps_its_proportions_and_stays_inside(
    size: tuple[int, int], box: Any, shape: tuple[int, int], window: tuple[int, ...]
) -> None:
    assert face_window(size, box, shape) == window
