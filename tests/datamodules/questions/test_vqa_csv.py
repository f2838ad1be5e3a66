"""Questions in CSV files: what is read, how images are split, and the batches."""

import json
import logging
import pickle
import shutil
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from PIL import Image
from torchvision.transforms.v2 import functional as F

from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import order_by_image
from datamodules.questions.vqa_csv import VQACsv
from eomt.errors import UserError
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.questions.question_files import color_rows, vqa_csv, write_csv, write_questions

SPLITS = ("train", "val", "test")


def test_rows_of_vivqa_are_read(tmp_path: Path) -> None:
    write_questions(tmp_path, range(4))
    write_questions(tmp_path, [9], "val.csv")
    rows = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv")).rows("train")
    assert len(rows) == 8
    first = rows[0]
    assert (first.question, first.answer, first.answers) == ("what colour is the circle ?", "red", ("red",))
    assert (first.question_type, first.image, first.name) == ("colour", tmp_path / "0.jpg", "train.csv:2")
    assert rows[1].question_type == "object"
    # by image, in the order of the file otherwise
    assert [row.image.name for row in rows[::2]] == [row.image.name for row in rows[1::2]]
    assert len({row.name for row in rows}) == 8


@pytest.mark.parametrize("column", ["image", "filename", "img_id", "image_id"])
@pytest.mark.parametrize("type_column", ["type", "question_type"])
def test_generic_columns_are_read_in_any_order(tmp_path: Path, column: str, type_column: str) -> None:
    for place in ("a/one.png", "two.jpg", "three.png"):
        write_face(tmp_path / place, len(place))
    rows = [
        ("Color", "unused", '["red", "dark  red"]', "What is it?", "red", "a/one.png"),
        ("1", "", "", "How many, then?", "2", "two"),
        ("LOCATION", "", "", "Where?", "here", "three.png"),
    ]
    write_csv(tmp_path / "train.csv", rows, [type_column, "notes", "answers", " Question", "ANSWER", column])
    data = vqa_csv(tmp_path, val_fraction=0.3)
    found = {row.question: row for split in SPLITS for row in data.rows(split)}
    # the rows of validation too: nothing is trained on that is not in the vocabulary
    assert len(found) == 3
    row = found["What is it?"]
    assert (row.answers, row.question_type, row.image) == (("red", "dark red"), "colour", tmp_path / "a/one.png")
    assert found["How many, then?"].question_type == "count"
    assert found["Where?"].question_type == "location"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sub/1.png", "sub/1.png"),
        ("sub/1", "sub/1.webp"),
        ("7", "7.jpg"),
        ("139", "000000000139.jpg"),
        ("139", "COCO_train2014_000000000139.jpg"),
        ("139", "COCO_val2014_000000000139.jpg"),
        ("139", "COCO_test2015_000000000139.jpg"),
        ("1.0", "1.jpg"),
        ("139.0", "COCO_val2014_000000000139.jpg"),
        ("a\u0309nh/bi\u0300a", "\u1ea3nh/b\u00eca.png"),
        ("\u1ea3nh/b\u00eca.png", "a\u0309nh/bi\u0300a.png"),
    ],
)
def test_images_are_found_by_path_name_and_number(tmp_path: Path, name: str, file: str) -> None:
    write_face(tmp_path / file, 1)
    find = ImageFinder(tmp_path)
    assert find(name) == tmp_path / file
    assert find(str(tmp_path / file)) == tmp_path / file
    assert [find(other) for other in ("8", "", "sub", "x" * 5000, "139a")] == [None] * 5


@pytest.mark.parametrize("language", ["en", "vi"])
def test_types_follow_from_the_question_where_there_is_no_column(tmp_path: Path, language: Any) -> None:
    questions = {
        "en": ["what is it", "how many red cups", "what color is the cup on the left", "where is it"],
        "vi": ["con vật này là gì", "có bao nhiêu quả bóng màu đỏ", "màu của chiếc xe là gì", "con mèo ở đâu"],
    }[language]
    write_face(tmp_path / "1.jpg", 1)
    write_face(tmp_path / "2.jpg", 2)
    rows = [(question, "a", image) for question in questions for image in (1, 2)]
    write_csv(tmp_path / "train.csv", rows, ["question", "answer", "image"])
    data = vqa_csv(tmp_path, language=language, val_fraction=0.5)
    types = [row.question_type for row in sorted(data.rows("train"), key=lambda row: questions.index(row.question))]
    assert types == ["object", "count", "colour", "location"]


def test_a_blank_type_is_found_by_the_rules_and_a_written_one_stays(tmp_path: Path) -> None:
    write_questions(tmp_path, range(3))
    rows = [("how many ?", "2", image, kind) for image, kind in ((0, ""), (1, " "), (2, "colour"))]
    write_csv(tmp_path / "train.csv", rows, ["question", "answer", "image", "type"])
    data = vqa_csv(tmp_path)
    types = {row.image.name: row.question_type for split in SPLITS for row in data.rows(split)}
    assert types == {"0.jpg": "count", "1.jpg": "count", "2.jpg": "colour"}


def test_vietnamese_survives_every_step(tmp_path: Path) -> None:
    question, answer = "Màu  của chiếc\u00a0bình là gì", "Màu đỏ"
    apart = [unicodedata.normalize("NFD", text) for text in (question, answer)]
    assert apart != [question, answer]
    for image in range(4):
        write_face(tmp_path / f"{image}.jpg", image)
    # composed, decomposed, and decomposed and escaped in JSON
    rows = [[0, *apart, image, "màu", json.dumps([apart[1], "đỏ"])] for image in range(2)]
    rows += [[0, question, answer, image, "ma\u0300u", ""] for image in range(2, 4)]
    write_questions(tmp_path, [9])
    write_csv(tmp_path / "train.csv", rows, ["", "question", "answer", "img_id", "type", "answers"])
    data = vqa_csv(tmp_path, question_types=["vật", "màu"], batch_size=2, val_fraction=0.5, language="vi")
    assert data.answers == ["màu đỏ"]
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (batch,) = loader
        assert batch["question"] == ["Màu của chiếc bình là gì"] * 2
        assert batch["answer"] == ["Màu đỏ"] * 2
        assert all(answers in (["Màu đỏ"], ["Màu đỏ", "đỏ"]) for answers in batch["answers"])
        assert batch["question_type"] == ["màu"] * 2
        assert batch["answer_index"].tolist() == [0, 0]


def test_a_batch_is_what_the_network_takes(tmp_path: Path) -> None:
    write_questions(tmp_path, range(6))
    write_csv(tmp_path / "val.csv", [[0, "is it ?", "purple", 8, 0], [1, "what is there a", "dark red", 8, 0]])
    write_face(tmp_path / "8.jpg", 8, (30, 20))
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), batch_size=6)
    data.setup("fit")
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        size, images = len(batch["name"]), len(batch["image_name"])
        assert batch["image"].shape == (images, 3, 16, 16)
        assert batch["image"].dtype == torch.uint8
        assert len(set(batch["image_name"])) == images
        for key in ("image_index", "answer_index"):
            assert batch[key].shape == (size,)
        assert {batch[key].dtype for key in ("input_ids", "attention_mask", "labels", "image_index")} == {torch.int64}
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1]
        assert ((batch["input_ids"] == 1) == (batch["attention_mask"] == 0)).all()
        for position in range(size):
            image = Image.open(batch["image_name"][batch["image_index"][position]]).convert("RGB")
            expected = F.resize(F.pil_to_tensor(image), [16, 16], antialias=True)
            assert torch.equal(batch["image"][batch["image_index"][position]], expected)
        known = [data.answers.index(answer) if answer in data.answers else -1 for answer in batch["answer"]]
        assert batch["answer_index"].tolist() == known
        assert ((batch["labels"] >= 0) | (batch["labels"] == -100)).all()
    # the last one is that of validation: <s> answer </s>, where purple is not a word of the tokenizer
    assert batch["answer_index"][0] == -1
    assert batch["labels"].tolist() == [[0, 3, 2, -100], [0, 3, 4 + 8, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["image_name"] == [str(tmp_path / "8.jpg")]
    assert "weight" not in batch


def test_images_are_split_and_never_rows(tmp_path: Path) -> None:
    write_questions(tmp_path, range(30))
    # a copy of an image under another name goes where the image goes
    shutil.copy(tmp_path / "3.jpg", tmp_path / "300.jpg")
    write_csv(tmp_path / "train.csv", color_rows([*range(30), 300]))
    for seed in range(4):
        data = vqa_csv(tmp_path, test_fraction=0.25, split_seed=seed)
        images = {split: {row.image.name for row in data.rows(split)} for split in SPLITS}
        assert sum(map(len, images.values())) == len(set().union(*images.values())) == 31
        assert any({"3.jpg", "300.jpg"} <= names for names in images.values())
        assert all(7 <= len(images[split]) <= 9 for split in ("val", "test"))
        assert sum(len(data.rows(split)) for split in SPLITS) == 62
    records = [vqa_csv(tmp_path, split_seed=seed).split_record for seed in (0, 0, 1)]
    assert records[0] == records[1] != records[2]


def test_a_recorded_split_is_used_again(tmp_path: Path) -> None:
    write_questions(tmp_path, range(12))
    data = vqa_csv(tmp_path, split_seed=5)
    assert data.is_split_by_seed
    record = tmp_path / "splits.json"
    record.write_text(json.dumps(data.split_record))
    again = vqa_csv(tmp_path, splits=str(record))
    assert again.split_record == data.split_record
    assert again.rows("val") == data.rows("val")
    given = vqa_csv(tmp_path, val_csv=str(tmp_path / "train.csv"))
    assert not given.is_split_by_seed
    with pytest.raises(UserError, match="splits: val_csv is given"):
        vqa_csv(tmp_path, val_csv="val.csv", splits=str(record))


@pytest.mark.parametrize("split", ["val", "test"])
def test_copies_on_two_sides_of_a_recorded_split_are_refused_or_dropped(tmp_path: Path, split: str) -> None:
    write_questions(tmp_path, range(6))
    shutil.copy(tmp_path / "3.jpg", tmp_path / "300.jpg")
    write_csv(tmp_path / "train.csv", color_rows([*range(6), 300]))
    other = "test" if split == "val" else "val"
    names = {"train": ["0.jpg", "1.jpg", "3.jpg"], split: ["2.jpg", "300.jpg"], other: ["4.jpg", "5.jpg"]}
    record = tmp_path / "splits.json"
    record.write_text(json.dumps(names))
    arguments = {"splits": str(record), "test_fraction": 0.2, "batch_size": 1}
    message = rf"splits\.json: 1 images are in {split} too \(.*3\.jpg is .*300\.jpg.*name copies .*or set on_leak: drop"
    with pytest.raises(UserError, match=message):
        vqa_csv(tmp_path, **arguments).rows("train")
    data = vqa_csv(tmp_path, on_leak="drop", **arguments)
    data.setup("fit")
    assert {row.image.name for row in data.rows("train")} == {"0.jpg", "1.jpg"}
    assert data.counts["train"]["leaked"] == 2
    assert len(data.rows(split)) == 4


def test_images_that_validation_and_test_share_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_questions(tmp_path, range(8))
    for image in (20, 21, 22):
        write_face(tmp_path / f"{image}.jpg", image)
    shutil.copy(tmp_path / "21.jpg", tmp_path / "2100.jpg")
    write_csv(tmp_path / "val.csv", color_rows([20, 21]))
    found = []
    for images in ([22], [22, 2100], [20, 21]):
        write_csv(tmp_path / "test.csv", color_rows(images))
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="eomt"):
            vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), test_csv=str(tmp_path / "test.csv")).rows("test")
        found.append([message.partition(" are in test too")[0] for message in caplog.messages])
    assert found == [[], ["1 of 2 validation images"], ["2 of 2 validation images"]]


def test_a_test_split_is_taken_from_training_beside_a_file_of_validation(tmp_path: Path) -> None:
    write_questions(tmp_path, range(10))
    write_questions(tmp_path, range(20, 23), "val.csv")
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), test_fraction=0.3)
    assert [len(data.rows(split)) for split in SPLITS] == [14, 6, 6]
    assert {row.name.split(":")[0] for row in data.rows("val")} == {"val.csv"}
    assert data.split_record["val"] == []
    assert len(data.split_record["test"]) == 3


@pytest.mark.parametrize("field", ["val_csv", "test_csv"])
@pytest.mark.parametrize("copied", [False, True])
def test_images_that_are_trained_and_measured_on_are_refused(tmp_path: Path, field: str, copied: bool) -> None:
    write_questions(tmp_path, range(8))
    write_questions(tmp_path, range(20, 22), "other.csv")
    measured = [2, 3, 20]
    if copied:
        for image in (2, 3):
            shutil.copy(tmp_path / f"{image}.jpg", tmp_path / f"{image}00.jpg")
        measured = [200, 300, 20]
    write_csv(tmp_path / "other.csv", color_rows(measured))
    fields = {field: str(tmp_path / "other.csv")}
    with pytest.raises(UserError, match=r"train\.csv: 2 images are in .*other\.csv too \(.*/2\.jpg is .*/2(00)?\.jpg"):
        vqa_csv(tmp_path, **fields).rows("train")
    data = vqa_csv(tmp_path, on_leak="drop", batch_size=1, **fields)
    data.setup("fit")
    assert not {"2.jpg", "3.jpg"} & {row.image.name for row in data.rows("train")}
    assert data.counts["train"]["leaked"] == 4
    assert sum(len(data.rows(split)) for split in SPLITS) == 12 + 6
    assert len(data.rows(field[:-4])) == 6


def test_answers_are_those_of_training_and_rare_ones_are_dropped(tmp_path: Path) -> None:
    write_questions(tmp_path, range(5))
    rows = [[0, "what ?", answer, image, 0] for image, answer in enumerate(["red", "Red", "blue", "Blue", "odd"])]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "val.csv", [[0, "what ?", "odd", 7, 0], [0, "what ?", "RED", 7, 0]])
    write_face(tmp_path / "7.jpg", 7)
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), min_answer_count=2, tokenizer=None)
    assert data.answers == ["blue", "red"]
    data.tokenizer = str(tmp_path / "tokenizer")
    data.setup()
    assert data.counts["train"]["dropped"] == 1
    assert len(data.rows("train")) == 4
    (batch,) = data.val_dataloader()
    assert batch["answer_index"].tolist() == [-1, 1]


def test_counts_tell_of_every_split(tmp_path: Path) -> None:
    write_questions(tmp_path, range(8), questions=3)
    write_questions(tmp_path, range(20, 23), "val.csv")
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
    data.setup("fit")
    assert data.counts["train"] == {
        **{"images": 8, "questions": 24, "object": 8, "count": 0, "colour": 8, "location": 8, "yes/no": 0},
        **{"dropped": 0, "leaked": 0, "truncated": 0, "skipped": 0},
    }
    assert data.counts["val"]["images"] == 3
    assert data.counts["val"]["questions"] == 6
    assert "dropped" not in data.counts["val"]


def test_questions_that_are_too_long_are_truncated_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_questions(tmp_path, range(4))
    write_csv(tmp_path / "val.csv", [[0, "red " * 40, "red", 7, 0], [1, "red", "red", 7, 0]])
    write_face(tmp_path / "7.jpg", 7)
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
    with caplog.at_level(logging.WARNING, logger="eomt"):
        data.setup("fit")
    assert data.counts["val"]["truncated"] == 1
    assert data.counts["train"]["truncated"] == 0
    assert caplog.text.count("val: 1 of 2 questions are longer than the text model takes") == 1
    (batch,) = data.val_dataloader()
    assert batch["attention_mask"].sum(1).tolist() == [24, 3]
    assert batch["input_ids"][0, -1] == 2


def test_prediction_needs_no_training_file(tmp_path: Path) -> None:
    write_questions(tmp_path / "data", range(4))
    write_face(tmp_path / "new" / "b" / "1.png", 1)
    write_face(tmp_path / "new" / "0.png", 2)
    write_csv(tmp_path / "new" / "asked.csv", [["a, b?", "0.png"], ["c?", "b/1"]], ["question", "image"])
    trained = vqa_csv(tmp_path / "data")
    fields = {"answers": trained.answers, "tokenizer": trained.tokenizer, "train_csv": "gone.csv"}
    (batch,) = vqa_csv(tmp_path, predict_csv=str(tmp_path / "new" / "asked.csv"), **fields).predict_dataloader()
    assert batch["question"] == ["a, b?", "c?"]
    assert (batch["answer"], batch["answers"], batch["answer_index"].tolist()) == (["", ""], [[], []], [-1, -1])
    asked = vqa_csv(tmp_path, predict_path=str(tmp_path / "new"), predict_question="Where  is it?", **fields)
    (batch,) = asked.predict_dataloader()
    assert batch["name"] == ["0.png", "b/1.png"]
    assert batch["question"] == ["Where is it?"] * 2
    assert batch["question_type"] == ["location"] * 2
    assert batch["labels"].shape == (2, 0)
    one = vqa_csv(tmp_path, predict_path=str(tmp_path / "new" / "0.png"), predict_question="What?", **fields)
    assert [row.image.name for row in one.rows_to_predict()] == ["0.png"]
    trained.setup("predict")
    (batch,) = trained.predict_dataloader()
    assert batch["name"] == [row.name for row in trained.rows("val")]


def test_processes_that_read_files_get_no_tokenizer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_questions(tmp_path, range(8))
    data = vqa_csv(tmp_path, num_workers=2)
    data.setup("fit")
    loader = data.train_dataloader()
    assert b"Tokenizer" not in pickle.dumps(loader.dataset)
    assert sum(len(batch["name"]) for batch in loader) == 12
    assert "parallelism" not in capfd.readouterr().err


def test_rows_are_ordered_by_image_and_else_stay(tmp_path: Path) -> None:
    write_questions(tmp_path, range(6), questions=3)
    rows = vqa_csv(tmp_path).rows("train")
    shuffled = rows[::2] + rows[1::2]
    ordered = order_by_image(shuffled)
    images = [row.image for row in ordered]
    assert list(dict.fromkeys(images)) == list(dict.fromkeys(row.image for row in shuffled))
    assert sum(one != other for one, other in pairwise(images)) == len(set(images)) - 1
    for image in set(images):
        assert [r for r in ordered if r.image == image] == [r for r in shuffled if r.image == image]


def test_the_command_line_builds_it_from_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    config = parser.parse_string("""
data:
  class_path: datamodules.questions.vqa_csv.VQACsv
  init_args:
    train_csv: train.csv
    language: vi
    batch_size: 3
    img_size: [70, 84]
    type_weights: {color: 2}
    answers: [a, b]
""")
    data = parser.instantiate_classes(config).data
    assert isinstance(data, VQACsv)
    assert (data.batch_size, data.img_size, data.answers) == (3, (70, 84), ["a", "b"])
    assert data.type_weights == {"object": 1, "count": 1, "colour": 2, "location": 1, "yes/no": 1}
    assert data.question_types == ["object", "count", "colour", "location", "yes/no"]
