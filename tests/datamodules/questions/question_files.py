"""Small files of questions for the tests of this folder: every image has other pixels, told by its number."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.questions.vqa_csv import VQACsv
from datamodules.questions.vqa_v2 import VQAv2
from tests.datamodules.faces.face_files import write_face
from tests.tiny_vqa import make_tokenizer

COLUMNS = ["", "question", "answer", "img_id", "type"]
# in the names of COCO's images
YEARS = {"train": 2014, "val": 2014, "test": 2015}
COLORS = ("red", "blue", "green")


def write_csv(file: Path, rows: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS) -> Path:
    """Write rows under their columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def color_rows(images: Sequence[int], questions: int = 2) -> list[list[Any]]:
    """Return rows in ViVQA's columns: of each image its color, then whether there is a circle, ...; its shape last.

    The questions of an image do not stand behind one another.
    """
    asked = [
        ("what colour is the circle ?", lambda image: COLORS[image % 3], 2),
        ("is there a circle ?", lambda image: ("yes", "no")[image % 2], 0),
        ("where is the square ?", lambda image: "there", 3),
    ]
    rows = [[text, answer(image), image, kind] for text, answer, kind in asked[:questions] for image in images]
    return [[number, *row] for number, row in enumerate(rows)]


def write_questions(folder: Path, images: Sequence[int], name: str = "train.csv", questions: int = 2) -> Path:
    """Write `name`, its images `<number>.jpg` beside it, and a tokenizer; return the CSV."""
    for image in images:
        write_face(folder / f"{image}.jpg", image)
    make_tokenizer(folder / "tokenizer")
    return write_csv(folder / name, color_rows(images, questions))


def vqa_csv(folder: Path, **arguments: Any) -> VQACsv:
    """Return a data module of `folder/train.csv` at 16 x 16 pixels."""
    settings = {
        "train_csv": str(folder / "train.csv"),
        "batch_size": 4,
        "eval_batch_size": 4,
        "img_size": 16,
        "tokenizer": str(folder / "tokenizer"),
        "val_fraction": 0.25,
    }
    return VQACsv(**(settings | arguments))


def write_pair(folder: Path, split: str, images: Sequence[int], questions: int = 2) -> dict[str, str]:
    """Write VQAv2's two files of a split and its images under COCO's names; return the fields of a data module."""
    asked, annotated = [], []
    for image in images:
        write_face(folder / split / f"COCO_{split}{YEARS[split]}_{image:012d}.jpg", image)
        for number in range(questions):
            ids = {"image_id": image, "question_id": 10 * image + number}
            asked.append(ids | {"question": ("Is there a circle ?", "What colour is it ?")[number % 2]})
            color = COLORS[image % 3]
            answer, kind = (("yes", "yes/no"), (color, "other"))[number % 2]
            annotated.append(
                ids
                | {"multiple_choice_answer": answer, "answer_type": kind, "question_type": "none of"}
                | {
                    "answers": [
                        {"answer": answer, "answer_id": place, "answer_confidence": "yes"} for place in range(10)
                    ]
                }
            )
    make_tokenizer(folder / "tokenizer")
    files = {"questions": folder / f"{split}_questions.json", "annotations": folder / f"{split}_annotations.json"}
    files["questions"].write_text(json.dumps({"info": {}, "questions": asked}))
    files["annotations"].write_text(json.dumps({"info": {}, "annotations": annotated}))
    return {f"{split}_{key}": str(file) for key, file in files.items()} | {f"{split}_images": str(folder / split)}


def vqa_v2(folder: Path, **arguments: Any) -> VQAv2:
    """Write "train" and "val" and return a data module of them at 16 x 16 pixels."""
    fields: dict[str, Any] = write_pair(folder, "train", range(6)) | write_pair(folder, "val", range(10, 13))
    settings = {"batch_size": 4, "img_size": 16, "tokenizer": str(folder / "tokenizer")}
    return VQAv2(**(fields | settings | arguments))
