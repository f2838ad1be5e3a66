"""Files of other data sets of questions: they are read, or refused by the name of the data set."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from datamodules.compute_answer_weights import main as compute_answer_weights
from eomt.errors import UserError
from tests.datamodules.faces.face_files import write_face
from tests.datamodules.questions.question_files import (
    color_rows,
    vqa_csv,
    vqa_v2,
    write_csv,
    write_pair,
    write_questions,
)

QUESTION = {"question": "What is it?", "answer": "red"}
SOURCES: dict[str, Any] = {
    "GQA": {"0293": {**QUESTION, "imageId": "23", "fullAnswer": "It is red."}},
    "VizWiz": [{**QUESTION, "image": "VizWiz_train_0.jpg", "answers": [{"answer": "red"}], "answerable": 1}],
    "TextVQA": {"dataset_name": "textvqa", "data": [{**QUESTION, "image_id": "0a", "answers": ["red"] * 10}]},
    "VQAv2": {"questions": [{"question": "What is it?", "image_id": 1, "question_id": 1}]},
}


@pytest.mark.parametrize("name", SOURCES)
def test_json_of_other_data_sets_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """15.25, 15.29: the whole file was printed as the columns of a CSV."""
    write_questions(tmp_path, range(4))
    file = tmp_path / "train.json"
    # some MB
    text = json.dumps(SOURCES[name])
    file.write_text(text + " " * 2**22)
    with pytest.raises(UserError, match=rf"train.json: is JSON, {name}'s") as caught:
        vqa_csv(tmp_path, train_csv=str(file)).rows("train")
    assert len(str(caught.value)) < 300
    assert ("datamodules.VQAv2" in str(caught.value)) == (name == "VQAv2")
    if name != "VQAv2":
        with pytest.raises(UserError, match=rf"is {name}'s JSON, which is not read; write a CSV") as caught:
            vqa_v2(tmp_path, train_questions=str(file)).rows("train")
        assert len(str(caught.value)) < 300


def test_json_under_the_name_of_a_csv_is_called_json(tmp_path: Path) -> None:
    """15.25"""
    write_questions(tmp_path, range(4))
    (tmp_path / "train.csv").write_text(json.dumps(SOURCES["GQA"]))
    with pytest.raises(UserError, match=r"train.csv: is JSON; a CSV is needed"):
        vqa_csv(tmp_path).rows("train")


def test_annotations_of_ok_vqa_which_lack_the_main_answer_are_read(tmp_path: Path) -> None:
    """15.29: they were refused for want of multiple_choice_answer."""
    fields = write_pair(tmp_path, "train", range(6))
    file = Path(fields["train_annotations"])
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        del entry["multiple_choice_answer"]
        entry["answers"] = [
            {"answer": text, "raw_answer": text, "answer_id": place}
            for place, text in enumerate(["pony", "horse", "horse", "mare"])
        ]
    data = vqa_v2(tmp_path, val_images=str(tmp_path / "val"))
    file.write_text(json.dumps(content))
    rows = data.rows("train")
    assert {(row.answer, row.answers) for row in rows} == {("horse", ("pony", "horse", "horse", "mare"))}
    compute_answer_weights(["--train_annotations", str(file), "--output", str(tmp_path / "weights.json")])
    assert list(json.loads((tmp_path / "weights.json").read_text())["answers"]) == ["horse"]


@pytest.mark.parametrize("column", ["image_path", "file_name", "img"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_answers_alone_are_enough_under_any_usual_column_and_delimiter(
    column: str, delimiter: str, tmp_path: Path
) -> None:
    """15.28, 15.29"""
    write_questions(tmp_path, range(4))
    answers = json.dumps(["dark red", "red", "red"]).replace('"', '""')
    lines = [delimiter.join((column, "question", "answers", "type"))]
    lines += [delimiter.join((f"{image}.jpg", "What is it?", f'"{answers}"', "0")) for image in range(4)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    rows = vqa_csv(tmp_path).rows("train")
    assert {(row.answer, row.answers) for row in rows} == {("red", ("dark red", "red", "red"))}


def test_leaks_may_be_trained_on_for_the_sake_of_published_splits_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """15.29: a split such as ViVQA's own, which shares images, could not be reproduced."""
    write_questions(tmp_path, range(8))
    write_csv(tmp_path / "val.csv", color_rows([6, 7, 9]))
    write_face(tmp_path / "9.jpg", 9)
    found = {}
    for on_leak in ("drop", "ignore"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="eomt"):
            data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"), on_leak=on_leak)
            found[on_leak] = len(data.rows("train"))
        assert ("2 training images are in" in caplog.text) == (on_leak == "ignore")
    assert found == {"drop": 12, "ignore": 16}
