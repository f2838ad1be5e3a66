"""What is wrong with files of questions is said in one line, before training."""

import logging
from pathlib import Path
from typing import Any

import pytest

from datamodules.questions.vqa_csv import VQACsv
from eomt.errors import UserError
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.questions.question_files import vqa_csv, write_csv, write_questions

COLUMNS = ["question", "answer", "image", "type", "answers"]
GOOD = ["what ?", "red", "0", "object", ""]


def spoiled(**cells: str) -> list[str]:
    return [cells.get(column, cell) for column, cell in zip(COLUMNS, GOOD, strict=True)]


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        (spoiled(image="gone"), {}, r"row 3: no image 'gone'; restore it, check image_folder, or set on_missing: skip"),
        (spoiled(image=""), {}, r"row 3: no image ''"),
        (spoiled(question="  "), {}, r"row 3: the question is empty"),
        (spoiled(answer=""), {}, r"row 3: the answer is missing"),
        (spoiled(type="size"), {}, r"row 3: unknown type 'size'; must be one of 0 object, 1 count, 2 colour, 3 loc"),
        (spoiled(type="5"), {}, r"row 3: unknown type '5'"),
        (spoiled(type=""), {"question_types": ["x", "y"]}, r"row 3: unknown type ''; must be one of 0 x, 1 y"),
        (spoiled(type="object"), {"question_types": ["x", "y"]}, r"unknown type 'object'; must be one of 0 x, 1 y"),
        (spoiled(answers='["red", '), {}, r"row 3: answers: cannot be read as JSON"),
        (spoiled(answers='{"red": 1}'), {}, r"row 3: answers: .*; write a list of texts"),
        (spoiled(answers="[1, 2]"), {}, r"row 3: answers: 0 is 1, .*; write a list of texts"),
        (spoiled(answers="[]"), {}, r"row 3: answers: .*; write a list of texts"),
        ([*GOOD, "more"], {}, r"row 3: 6 cells under 5 columns; put texts with commas between quotation marks"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: list[str], arguments: dict[str, Any], message: str) -> None:
    write_questions(tmp_path, range(2))
    good = spoiled(type="0")
    write_csv(tmp_path / "train.csv", [good, row, good], COLUMNS)
    with pytest.raises(UserError, match=r"train\.csv: .*" + message) as caught:
        vqa_csv(tmp_path, **arguments).setup("fit")
    assert "\n" not in str(caught.value)


def test_rows_are_counted_with_the_blank_ones_between_them(tmp_path: Path) -> None:
    write_questions(tmp_path, range(2))
    (tmp_path / "train.csv").write_text('question,answer,image\n\n"what\nis it",red,0\n,,\nwhere,,0\n')
    with pytest.raises(UserError, match="row 5: the answer is missing"):
        vqa_csv(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["", "question", "answer", "picture"], r"columns \(unnamed\), question, answer, picture; must have an image"),
        (["question", "image"], r"columns question, image; must have answer \(or answers\) too"),
        (["answer", "image"], r"must have question too"),
        (
            ["question", "answer", "image", "Question "],
            r"image, question: question stands there twice",
        ),
        (["question", "answer", "image", "type", "type"], r"type stands there twice; take one out"),
        (["question", "answer", "img_id", "IMG_ID"], r"img_id stands there twice"),
        (["answer"], r"must have an image column \(image, filename, img_id, .*, img\) and question too"),
    ],
)
def test_a_missing_column_is_told_with_those_there_are(tmp_path: Path, columns: list[str], message: str) -> None:
    write_csv(tmp_path / "train.csv", [["1"] * len(columns)], columns)
    with pytest.raises(UserError, match=message):
        _ = vqa_csv(tmp_path).answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"\xff\xfe\x00q", "cannot be read as text in UTF-8 .*; save it as UTF-8 text with commas"),
        (b"", "is empty"),
        (b"question,answer,image\n\n", "no row below the header"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.csv: " + message):
        _ = vqa_csv(tmp_path).answers


def test_rules_cannot_fill_types_of_other_names(tmp_path: Path) -> None:
    write_face(tmp_path / "0.png", 0)
    write_csv(tmp_path / "train.csv", [["what", "a", "0"]], ["question", "answer", "image"])
    with pytest.raises(UserError, match=r"columns question, answer, image; must have type, .* are shape, colour"):
        _ = vqa_csv(tmp_path, question_types=["shape", "colour"]).answers


def test_missing_images_can_be_left_out_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_questions(tmp_path, range(6))
    write_questions(tmp_path, range(20, 23), "val.csv")
    for image in (2, 5):
        (tmp_path / f"{image}.jpg").unlink()
    with caplog.at_level(logging.WARNING, logger="eomt"):
        data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), on_missing="skip")
        data.setup("fit")
    assert (data.counts["train"]["skipped"], data.counts["val"]["skipped"]) == (4, 0)
    assert data.counts["train"]["questions"] == 8
    assert r"train.csv: 4 rows are left out, whose images are missing (row 4: 2, ...)" in caplog.text
    for image in range(6):
        (tmp_path / f"{image}.jpg").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"train\.csv: no row whose image is there; check image_folder"):
        _ = vqa_csv(tmp_path, on_missing="skip").answers


def test_a_damaged_image_is_found_before_training(tmp_path: Path) -> None:
    write_questions(tmp_path, range(6))
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:200])
    with pytest.raises(UserError, match=r"3\.jpg: cannot be read as an image"):
        vqa_csv(tmp_path).setup()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0"),
        ({"img_size": (0, 8)}, r"img_size: \[0, 8\]; must be at least 1"),
        ({"min_answer_count": 0}, "min_answer_count: 0"),
        ({"questions_per_image": 0}, "questions_per_image: 0"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"val_csv": "v.csv", "test_fraction": 1.0}, "test_fraction: 1.0"),
        ({"test_csv": "t.csv", "test_fraction": 0.1}, "test_csv, test_fraction: both are given; give one of them"),
        ({"question_types": ["color", "colour"]}, "question_types: .*; give names that differ"),
        ({"question_types": []}, "question_types"),
        ({"question_types": ["images"]}, "question_types: 'images' has a meaning of its own"),
        ({"type_weights": {"size": 2.0}}, "type_weights: unknown type 'size'; must be one of object, count"),
        ({"type_weights": {"count": 0.0}}, r"type_weights: count 0\.0; must be above 0"),
        ({"predict_path": "a"}, "predict_path, predict_question: one is missing; give both"),
        ({"predict_question": "a"}, "predict_path, predict_question: one is missing; give both"),
        ({"predict_path": "a", "predict_question": " "}, "predict_question: empty"),
        (
            {"predict_path": "a", "predict_question": "b", "predict_csv": "c"},
            "predict_csv, predict_path: both are given",
        ),
    ],
)
def test_impossible_fields_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VQACsv("train.csv", **arguments)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    write_questions(tmp_path, range(4))
    with pytest.raises(UserError, match="batch_size: 99 on 1 processes is more than the 6 training questions"):
        vqa_csv(tmp_path, batch_size=99).setup("fit")
    with pytest.raises(UserError, match="tokenizer: null; give the folder or the hub id"):
        vqa_csv(tmp_path, tokenizer=None).setup("fit")
    with pytest.raises(UserError, match="there is no test split"):
        vqa_csv(tmp_path).test_dataloader()
    write_questions(tmp_path, [1])
    with pytest.raises(UserError, match=r"train\.csv: 1 images, none is left to train on"):
        vqa_csv(tmp_path).setup("fit")
