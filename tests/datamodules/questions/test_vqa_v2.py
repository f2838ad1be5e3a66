"""VQAv2's official pairs of files."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.compute_answer_weights import main
from eomt.errors import UserError
from tests.datamodules.questions.question_files import vqa_v2, write_pair


def test_rows_hold_ten_answers_and_the_answer_type(tmp_path: Path) -> None:
    data = vqa_v2(tmp_path)
    rows = data.rows("train")
    assert len(rows) == 12
    first, second = rows[:2]
    assert (first.question, first.answer, first.question_type) == ("Is there a circle ?", "yes", "yes/no")
    assert second.answers == ("red",) * 10
    assert (second.name, second.question_type) == ("1", "other")
    assert second.image == tmp_path / "train" / "COCO_train2014_000000000000.jpg"
    assert data.question_types == ["yes/no", "number", "other"]
    assert data.answers == ["yes", "blue", "green", "red"]
    data.setup("fit")
    assert data.counts["train"] == {
        **{"images": 6, "questions": 12, "yes/no": 6, "number": 0, "other": 6},
        **{"dropped": 0, "leaked": 0, "truncated": 0, "skipped": 0},
    }
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[0] == 2
    assert batch["weight"].tolist() == [1] * 4


def edit(split: str, kind: str, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / f"{split}_{kind}.json"
        content = json.loads(file.read_text())
        change(content[kind])
        file.write_text(json.dumps(content))

    return spoil


def overwrite(text: str) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath("val_annotations.json").write_text(text) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            edit("val", "questions", lambda e: e.pop(0)),
            r"do not match: 1 question_ids are not in val_questions.json \(100",
        ),
        (edit("val", "annotations", lambda e: [e.pop(0), e.pop(0)]), r"2 question_ids are not in val_annotations.json"),
        (edit("val", "annotations", lambda e: e[0].update(image_id=5)), r"1 questions are about different images"),
        (
            edit("val", "annotations", lambda e: e.append(e[0])),
            r"val_annotations.json: question_id 100 stands there twice",
        ),
        (edit("val", "questions", lambda e: e[1].pop("question")), r"val_questions.json: questions 1: has no question"),
        (edit("val", "questions", lambda e: e[1].update(question=" ")), r"question_id 101: the question is empty"),
        (edit("val", "annotations", lambda e: e[1].update(answers=[])), r"question_id 101: the answer is missing"),
        (
            edit("val", "annotations", lambda e: e[1].update(answer_type="x")),
            r"101: unknown type 'x'; must be one of yes/no",
        ),
        (
            edit("val", "questions", lambda e: e[1].update(question=None)),
            r"question_id 101: question is null; must be a",
        ),
        (
            edit("val", "annotations", lambda e: e[1].update(multiple_choice_answer=None)),
            r"question_id 101: multiple_choice_answer is null; must be a text",
        ),
        (
            edit("val", "annotations", lambda e: e[1].update(answers=[{"answer": "red"}, {"answer": None}])),
            r"question_id 101: answer is null; must be a text",
        ),
        (
            edit("val", "questions", lambda e: e[1].update(question_id=[1])),
            r"val_questions.json: questions 1: question_id is \[1\]; must be a number",
        ),
        (overwrite("{"), r"val_annotations.json: cannot be read as JSON"),
        (overwrite('{"questions": []}'), r"val_annotations.json: holds questions; must hold a list of annotations"),
        (
            lambda f: next((f / "val").iterdir()).unlink(),
            r"val_questions.json: question_id 1\d0: no image 1\d in .*val",
        ),
    ],
)
def test_errors_are_told_with_a_count_and_an_example(tmp_path: Path, spoil: Any, message: str) -> None:
    data = vqa_v2(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)


def test_missing_images_can_be_left_out(tmp_path: Path) -> None:
    data = vqa_v2(tmp_path, on_missing="skip")
    next((tmp_path / "val").iterdir()).unlink()
    data.setup("fit")
    assert data.counts["val"]["skipped"] == 2
    assert data.counts["val"]["questions"] == 4


def test_a_null_answer_makes_no_weight(tmp_path: Path) -> None:
    data = vqa_v2(tmp_path)
    edit("train", "annotations", lambda e: e[3].update(multiple_choice_answer=None))(tmp_path)
    with pytest.raises(UserError, match="question_id 11: multiple_choice_answer is null"):
        main(["--train_annotations", str(data.train_annotations), "--output", str(tmp_path / "weights.json")])


def test_an_answer_may_be_a_number(tmp_path: Path) -> None:
    data = vqa_v2(tmp_path)
    edit("train", "annotations", lambda e: e[1].update(multiple_choice_answer=2, answers=[{"answer": 2}]))(tmp_path)
    assert [(row.answer, row.answers) for row in data.rows("train") if row.name == "1"] == [("2", ("2",))]


def test_an_image_of_training_is_not_measured_on(tmp_path: Path) -> None:
    fields = vqa_v2(tmp_path)
    fields.val_questions, fields.val_annotations = fields.train_questions, fields.train_annotations
    fields.val_images = fields.train_images
    with pytest.raises(UserError, match=r"6 images are in .* too .*what is measured must not be trained on"):
        fields.setup("fit")


def test_questions_without_answers_are_predicted(tmp_path: Path) -> None:
    test = write_pair(tmp_path, "test", range(30, 32))
    annotations = test.pop("test_annotations")
    data = vqa_v2(tmp_path, **test)
    (batch,) = data.predict_dataloader()
    assert batch["name"] == ["300", "301", "310", "311"]
    assert batch["answers"] == [[]] * 4
    with pytest.raises(UserError, match="there is no test split"):
        data.test_dataloader()
    known = vqa_v2(tmp_path, **test, test_annotations=annotations)
    (batch,) = known.test_dataloader()
    assert batch["answer"][0] == "yes"
    with pytest.raises(UserError, match="test_questions, test_images"):
        vqa_v2(tmp_path, test_annotations=annotations)


def test_answer_weights_are_made_of_annotations(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    data = vqa_v2(tmp_path, answer_weights=str(file))
    main(["--train_annotations", str(data.train_annotations), "--output", str(file)])
    data.setup("fit")
    content = json.loads(file.read_text())["answers"]
    batch = next(iter(data.train_dataloader()))
    ratio = content["yes"]["weight"] / content["red"]["weight"]
    weights = dict(zip(batch["answer"], batch["weight"].tolist(), strict=True))
    assert weights["yes"] / weights[next(answer for answer in weights if answer != "yes")] == pytest.approx(ratio)


def test_the_command_in_the_message_counts_only_questions_with_their_image(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    data = vqa_v2(tmp_path, answer_weights=str(file), on_missing="skip", batch_size=1)
    # an answer of one image alone, which is not there
    edit("train", "annotations", lambda e: e[1].update(multiple_choice_answer="odd"))(tmp_path)
    (tmp_path / "train" / "COCO_train2014_000000000000.jpg").unlink()
    main(["--train_annotations", str(data.train_annotations), "--output", str(file)])
    with pytest.raises(UserError, match="another vocabulary") as caught:
        data.setup("fit")
    main(shlex.split(str(caught.value).partition("compute_answer_weights ")[2]))
    data.setup("fit")
    assert sorted(json.loads(file.read_text())["answers"]) == ["blue", "green", "red", "yes"]
